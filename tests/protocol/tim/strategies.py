"""Any struct of TIM's, as hypothesis draws them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tim_trio.protocol.tim.structs import (
    FIELDS,
    WIDTHS,
    Kind,
    Struct,
    Tid,
    TimAck,
    TimAuth,
    TimError,
    TimMessage,
    TimReq,
    TimStream,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
blobs = st.binary(max_size=40)


def field_values(kind: Any) -> st.SearchStrategy[Any]:
    match kind:
        case Kind.BOOL:
            return st.booleans()
        case Kind.I8 | Kind.I16 | Kind.I32 | Kind.I64:
            half = 1 << (WIDTHS[kind] - 1)
            return st.integers(-half, half - 1)
        case Kind.STRING:
            return texts
        case Kind.BINARY:
            return blobs
        case Kind.STRING_MAP:
            return st.dictionaries(texts, texts, max_size=3)
        case Kind.BINARY_MAP:
            return st.dictionaries(texts, blobs, max_size=3)
        case Kind.STRING_LIST:
            return st.lists(texts, max_size=20).map(tuple)
        case _:
            return st.none() | structs(kind)


def structs(kind: type[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{field.name: field_values(field.kind) for field in FIELDS[kind]})


any_struct: st.SearchStrategy[Struct] = st.one_of(
    *(structs(kind) for kind in (TimError, TimAck, TimAuth, TimReq, TimStream, Tid, TimMessage))
)
