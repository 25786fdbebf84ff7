"""Where does the time go? The work is done in `where_time_goes.py`.

The standard library has a module of this name, which cProfile and PyTorch import. Whoever runs a
script of this folder finds this file first, and gets the library's module from it.
"""

import sys

if __name__ == "__main__":
    import tyro
    from where_time_goes import main

    tyro.cli(main)
else:
    from importlib.util import module_from_spec, spec_from_file_location
    from sysconfig import get_path

    spec = spec_from_file_location(__name__, f"{get_path('stdlib')}/profile.py")
    sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
