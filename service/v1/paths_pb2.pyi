from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetPathProfileRequest(_message.Message):
    __slots__ = ("model_name", "model_version")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ...) -> None: ...

class PathProfile(_message.Message):
    __slots__ = ("model_name", "model_version", "window", "active_macs", "flag_rate", "layers", "classes")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_MACS_FIELD_NUMBER: _ClassVar[int]
    FLAG_RATE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    window: int
    active_macs: float
    flag_rate: float
    layers: _containers.RepeatedCompositeFieldContainer[LayerProfile]
    classes: _containers.RepeatedCompositeFieldContainer[ClassProfile]
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., window: _Optional[int] = ..., active_macs: _Optional[float] = ..., flag_rate: _Optional[float] = ..., layers: _Optional[_Iterable[_Union[LayerProfile, _Mapping]]] = ..., classes: _Optional[_Iterable[_Union[ClassProfile, _Mapping]]] = ...) -> None: ...

class LayerProfile(_message.Message):
    __slots__ = ("name", "density")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DENSITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    density: float
    def __init__(self, name: _Optional[str] = ..., density: _Optional[float] = ...) -> None: ...

class ClassProfile(_message.Message):
    __slots__ = ("name", "count", "flag_rate")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FLAG_RATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    count: int
    flag_rate: float
    def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ..., flag_rate: _Optional[float] = ...) -> None: ...
