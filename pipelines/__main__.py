"""The entry point: sets environment variables before imports, and reports missing packages."""

import os
import sys


def main() -> None:
    # before importing torch: threads that wait in a loop take the cores from those that work; beside a busy
    # process a step then takes four times as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "serve" in sys.argv[1:2]:  # before importing numpy: BLAS threads of workers would compete for cores
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from pipelines import cli
    except ModuleNotFoundError as error:
        print(
            f"recsys: {error}: only the library is installed; in the repository, pip install '.[serve]' "
            "for HTTP, '.[serve,index]' for HTTP with an Annoy index, '.[train]' for everything else",
            file=sys.stderr,
        )
        sys.exit(1)
    cli.main()


if __name__ == "__main__":
    main()
