"""The entry point: says what to install where only the library is."""

import sys


def main() -> None:
    try:
        from pipelines import cli
    except ModuleNotFoundError as error:
        print(
            f"recsys: {error}: this install has the library alone; pip install '.[serve]' for HTTP, "
            "'.[train]' for the rest",
            file=sys.stderr,
        )
        sys.exit(1)
    cli.main()


if __name__ == "__main__":
    main()
