"""TIM's structs for thriftpy2: another implementation of the compact protocol."""

from __future__ import annotations

from typing import Any

from thriftpy2 import transport
from thriftpy2.protocol import compact
from thriftpy2.thrift import TPayload, TType

from tim_trio.protocol.tim.structs import (
    FIELDS,
    Kind,
    Tid,
    TimAck,
    TimAuth,
    TimError,
    TimMessage,
    TimReq,
    TimStream,
)

TCompactProtocol: Any = compact.TCompactProtocol
TMemoryBuffer: Any = transport.TMemoryBuffer

_TYPES = {
    Kind.BOOL: TType.BOOL,
    Kind.I8: TType.BYTE,
    Kind.I16: TType.I16,
    Kind.I32: TType.I32,
    Kind.I64: TType.I64,
    Kind.STRING: TType.STRING,
    Kind.BINARY: TType.BINARY,
}


def _spec(kind: type[Any]) -> dict[int, tuple[Any, ...]]:
    spec: dict[int, tuple[Any, ...]] = {}
    for field in FIELDS[kind]:
        match field.kind:
            case Kind.STRING_MAP:
                types: Any = (TType.STRING, TType.STRING)
                one = (TType.MAP, field.name, types, field.required)
            case Kind.BINARY_MAP:
                types = (TType.STRING, TType.BINARY)
                one = (TType.MAP, field.name, types, field.required)
            case Kind.STRING_LIST:
                one = (TType.LIST, field.name, TType.STRING, field.required)
            case Kind():
                one = (_TYPES[field.kind], field.name, field.required)  # type: ignore[assignment]
            case struct:
                one = (TType.STRUCT, field.name, CLASSES[struct], field.required)
        spec[field.number] = one
    return spec


CLASSES: dict[type[Any], Any] = {}
for _kind in (TimError, TimAck, TimAuth, TimReq, TimStream, Tid, TimMessage):
    _attributes = {"thrift_spec": _spec(_kind)}
    CLASSES[_kind] = type(_kind.__name__, (TPayload,), _attributes)


def read(kind: type[Any], data: bytes) -> dict[str, Any]:
    """Return the fields that thriftpy2 reads, structs as dictionaries."""
    payload = CLASSES[kind]()
    protocol = TCompactProtocol(TMemoryBuffer(data))
    protocol.read_struct(payload)
    return _fields(payload)


def _fields(payload: Any) -> dict[str, Any]:
    values = {}
    for _, name, *_ in payload.thrift_spec.values():
        value = getattr(payload, name, None)
        if value is not None:
            values[name] = _fields(value) if isinstance(value, TPayload) else value
    return values


def write(value: Any) -> bytes:
    """Return the bytes that thriftpy2 writes; fields with their default are left out."""
    buffer = TMemoryBuffer()
    TCompactProtocol(buffer).write_struct(_payload(value))
    data: bytes = buffer.getvalue()
    return data


def _payload(value: Any) -> Any:
    payload = CLASSES[type(value)]()
    for field in FIELDS[type(value)]:
        content = getattr(value, field.name)
        if field.required or content not in (None, False, 0, "", b"", {}, ()):
            if type(content) in FIELDS:
                content = _payload(content)
            setattr(payload, field.name, list(content) if isinstance(content, tuple) else content)
    return payload
