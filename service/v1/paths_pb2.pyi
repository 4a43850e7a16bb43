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
    __slots__ = ("name", "density", "prototype_counts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DENSITY_FIELD_NUMBER: _ClassVar[int]
    PROTOTYPE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    density: float
    prototype_counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., density: _Optional[float] = ..., prototype_counts: _Optional[_Iterable[int]] = ...) -> None: ...

class ClassProfile(_message.Message):
    __slots__ = ("name", "count", "flag_rate")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FLAG_RATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    count: int
    flag_rate: float
    def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ..., flag_rate: _Optional[float] = ...) -> None: ...

class WatchFlagsRequest(_message.Message):
    __slots__ = ("model_name", "model_version")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ...) -> None: ...

class FlaggedImage(_message.Message):
    __slots__ = ("request_id", "model_name", "model_version", "image_index", "anomaly_score", "class_name", "time", "path_digest")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    ANOMALY_SCORE_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    PATH_DIGEST_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model_name: str
    model_version: str
    image_index: int
    anomaly_score: float
    class_name: str
    time: float
    path_digest: str
    def __init__(self, request_id: _Optional[str] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., image_index: _Optional[int] = ..., anomaly_score: _Optional[float] = ..., class_name: _Optional[str] = ..., time: _Optional[float] = ..., path_digest: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "datatype", "shape", "images", "filters", "classes")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    images: bytes
    filters: int
    classes: int
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., images: _Optional[bytes] = ..., filters: _Optional[int] = ..., classes: _Optional[int] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("model_name", "model_version", "threshold", "images")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    threshold: float
    images: _containers.RepeatedCompositeFieldContainer[ExplainedImage]
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., threshold: _Optional[float] = ..., images: _Optional[_Iterable[_Union[ExplainedImage, _Mapping]]] = ...) -> None: ...

class ExplainedImage(_message.Message):
    __slots__ = ("class_name", "anomaly_score", "adversarial", "parts", "layers", "baseline", "filters", "nearest", "threshold", "answer")
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    ANOMALY_SCORE_FIELD_NUMBER: _ClassVar[int]
    ADVERSARIAL_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    NEAREST_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    class_name: str
    anomaly_score: float
    adversarial: bool
    parts: _containers.RepeatedCompositeFieldContainer[ScorePart]
    layers: _containers.RepeatedCompositeFieldContainer[LayerPart]
    baseline: float
    filters: _containers.RepeatedCompositeFieldContainer[FilterPart]
    nearest: _containers.RepeatedCompositeFieldContainer[NearClass]
    threshold: float
    answer: float
    def __init__(self, class_name: _Optional[str] = ..., anomaly_score: _Optional[float] = ..., adversarial: bool = ..., parts: _Optional[_Iterable[_Union[ScorePart, _Mapping]]] = ..., layers: _Optional[_Iterable[_Union[LayerPart, _Mapping]]] = ..., baseline: _Optional[float] = ..., filters: _Optional[_Iterable[_Union[FilterPart, _Mapping]]] = ..., nearest: _Optional[_Iterable[_Union[NearClass, _Mapping]]] = ..., threshold: _Optional[float] = ..., answer: _Optional[float] = ...) -> None: ...

class ScorePart(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class LayerPart(_message.Message):
    __slots__ = ("name", "bits", "gates")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    name: str
    bits: float
    gates: float
    def __init__(self, name: _Optional[str] = ..., bits: _Optional[float] = ..., gates: _Optional[float] = ...) -> None: ...

class FilterPart(_message.Message):
    __slots__ = ("layer", "filter", "open", "usually_open", "gate_logit", "usual_gate_logit", "contribution")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    USUALLY_OPEN_FIELD_NUMBER: _ClassVar[int]
    GATE_LOGIT_FIELD_NUMBER: _ClassVar[int]
    USUAL_GATE_LOGIT_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    layer: str
    filter: int
    open: bool
    usually_open: bool
    gate_logit: float
    usual_gate_logit: float
    contribution: float
    def __init__(self, layer: _Optional[str] = ..., filter: _Optional[int] = ..., open: bool = ..., usually_open: bool = ..., gate_logit: _Optional[float] = ..., usual_gate_logit: _Optional[float] = ..., contribution: _Optional[float] = ...) -> None: ...

class NearClass(_message.Message):
    __slots__ = ("name", "surprise")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SURPRISE_FIELD_NUMBER: _ClassVar[int]
    name: str
    surprise: float
    def __init__(self, name: _Optional[str] = ..., surprise: _Optional[float] = ...) -> None: ...
