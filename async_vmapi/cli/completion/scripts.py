"""The functions of the shells that call the program for completion.

None evaluates what the program prints: names of VMs could be code.
"""

from collections.abc import Mapping
from typing import Final

__all__ = ["SCRIPTS", "VARIABLE"]

VARIABLE: Final = "_ASYNC_VMAPI_COMPLETE"
"""The environment variable that names the shell."""

_BASH: Final = """\
# Completion of async-vmapi in bash 3.2 or later.
_async_vmapi() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        if [ "$line" = ":files" ]; then
            compopt -o default 2>/dev/null
            return
        fi
        COMPREPLY+=("$line")
    done < <(_ASYNC_VMAPI_COMPLETE=bash "${1/#\\~\\//$HOME/}" \\
        "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
}
complete -o nosort -F _async_vmapi async-vmapi 2>/dev/null || complete -F _async_vmapi async-vmapi
"""

_ZSH: Final = """\
#compdef async-vmapi
# Completion of async-vmapi in zsh.
_async_vmapi() {
    local line
    local -a values shown
    while IFS= read -r line; do
        if [[ "$line" == ":files" ]]; then
            _files
            return
        fi
        values+=("${line%%$'\\t'*}")
        shown+=("${line/$'\\t'/  -- }")
    done < <(_ASYNC_VMAPI_COMPLETE=zsh "${words[1]/#\\~\\//$HOME/}" \\
        "${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)
    (( $#values )) && compadd -l -d shown -a values
}
if [[ "${funcstack[1]}" == "_async_vmapi" ]]; then
    _async_vmapi "$@"
else
    compdef _async_vmapi async-vmapi
fi
"""

_FISH: Final = """\
# Completion of async-vmapi in fish 3.0 or later.
function __async_vmapi
    set -l line (commandline -cp | string collect)
    set -l found (_ASYNC_VMAPI_COMPLETE=fish async-vmapi "$line" 2>/dev/null)
    if test "$found[1]" = ":files"
        __fish_complete_path (commandline -ct)
    else if test (count $found) -gt 0
        printf '%s\\n' $found
    end
end
complete --command async-vmapi --no-files --arguments '(__async_vmapi)'
"""

SCRIPTS: Final[Mapping[str, str]] = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""The script of each shell, to be evaluated when the shell starts."""
