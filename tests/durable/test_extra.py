"""The extra is imported only when used."""

import subprocess
import sys


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


class TestExtra:
    def test_the_package_alone_imports_neither_dbos_nor_its_database(self):
        """Without durable jobs it costs nothing."""
        code = "import sys, async_vmapi; print({'dbos', 'sqlalchemy'} & set(sys.modules))"
        assert run(code).stdout.strip() == "set()"

    def test_without_it_the_import_says_what_to_install(self):
        """Not just the name of a missing module."""
        code = "import sys; sys.modules['dbos'] = None; import async_vmapi.durable"
        assert "pip install 'async-vmapi[durable]'" in run(code).stderr
