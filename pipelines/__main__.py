"""The entry point: sets what must be set before any import, and says what to install where that fails."""

import os
import sys


def main() -> None:
    if "serve" in sys.argv[1:2]:  # before numpy: BLAS threads of several workers would fight over the cores
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from pipelines import cli
    except ModuleNotFoundError as error:
        print(
            f"recsys: {error}: this install has the library alone; in the repository, pip install '.[serve]' "
            "for HTTP, '.[serve,index]' for HTTP with bundles that Annoy searches, '.[train]' for the rest",
            file=sys.stderr,
        )
        sys.exit(1)
    cli.main()


if __name__ == "__main__":
    main()
