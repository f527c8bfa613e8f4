"""Hide credentials in what is shown or stored."""

import re
from typing import Any

# a name that may be that of a credential, and its value: in SQL, in a connection string or in a URI
SECRET = re.compile(
    r"""(\w*(?:password|passwd|pwd|secret|token|api_?key|access_?key|account_?key|key_id|credential|signature
        |authorization)\w*['"]?\s*(?::=|=>|=|:(?!:))\s*)
        (?:''.*?''|'(?:[^']|'')*'|"[^"]*"|(?:\\.|[^\s'"&;])+)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


def mask_secrets(value: Any) -> Any:
    """Replace what may be a credential by *** in a text, or in every text of a JSON value.

    Masked are the user information and the query of a URI, and the value of a key such as password=. In
    doubt a value is masked, so the result is for display only.
    """
    if isinstance(value, dict):
        return {key: mask_secrets(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [mask_secrets(one) for one in value]
    if not isinstance(value, str):
        return value
    text = re.sub(r"(://\S*?)\?\S+", r"\1?***", re.sub(r"://[^/\s]\S*@", "://***@", value))
    return SECRET.sub(r"\1***", text)
