from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("model", "version", "tensor", "image", "top_k", "max_energy_joules", "min_accuracy", "tag")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_ENERGY_JOULES_FIELD_NUMBER: _ClassVar[int]
    MIN_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    tensor: Tensor
    image: bytes
    top_k: int
    max_energy_joules: float
    min_accuracy: float
    tag: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., image: _Optional[bytes] = ..., top_k: _Optional[int] = ..., max_energy_joules: _Optional[float] = ..., min_accuracy: _Optional[float] = ..., tag: _Optional[str] = ...) -> None: ...

class ClassifyReply(_message.Message):
    __slots__ = ("request_id", "labels", "model", "version", "variant", "artifact_digest", "device", "simulated", "steps", "policy", "energy", "device_seconds", "queue_seconds", "journaled", "tag", "fallback_of")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    DEVICE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    JOURNALED_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_OF_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    model: str
    version: str
    variant: str
    artifact_digest: str
    device: str
    simulated: bool
    steps: int
    policy: str
    energy: EnergyReport
    device_seconds: float
    queue_seconds: float
    journaled: bool
    tag: str
    fallback_of: str
    def __init__(self, request_id: _Optional[int] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., variant: _Optional[str] = ..., artifact_digest: _Optional[str] = ..., device: _Optional[str] = ..., simulated: _Optional[bool] = ..., steps: _Optional[int] = ..., policy: _Optional[str] = ..., energy: _Optional[_Union[EnergyReport, _Mapping]] = ..., device_seconds: _Optional[float] = ..., queue_seconds: _Optional[float] = ..., journaled: _Optional[bool] = ..., tag: _Optional[str] = ..., fallback_of: _Optional[str] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("name", "index", "score")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    name: str
    index: int
    score: float
    def __init__(self, name: _Optional[str] = ..., index: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class EnergyReport(_message.Message):
    __slots__ = ("dynamic_nanojoules", "static_nanojoules", "uncertainty_nanojoules", "provenance", "sharing", "state", "boundary")
    DYNAMIC_NANOJOULES_FIELD_NUMBER: _ClassVar[int]
    STATIC_NANOJOULES_FIELD_NUMBER: _ClassVar[int]
    UNCERTAINTY_NANOJOULES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    SHARING_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    dynamic_nanojoules: int
    static_nanojoules: int
    uncertainty_nanojoules: int
    provenance: str
    sharing: str
    state: str
    boundary: str
    def __init__(self, dynamic_nanojoules: _Optional[int] = ..., static_nanojoules: _Optional[int] = ..., uncertainty_nanojoules: _Optional[int] = ..., provenance: _Optional[str] = ..., sharing: _Optional[str] = ..., state: _Optional[str] = ..., boundary: _Optional[str] = ...) -> None: ...

class ClassifyStreamReply(_message.Message):
    __slots__ = ("reply", "error")
    REPLY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    reply: ClassifyReply
    error: Error
    def __init__(self, reply: _Optional[_Union[ClassifyReply, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "tag")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    tag: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., tag: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("version", "policy", "uptime_seconds", "budget", "journal_gaps", "meters", "budget_overruns")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_GAPS_FIELD_NUMBER: _ClassVar[int]
    METERS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_OVERRUNS_FIELD_NUMBER: _ClassVar[int]
    version: str
    policy: str
    uptime_seconds: float
    budget: BudgetState
    journal_gaps: int
    meters: _containers.RepeatedCompositeFieldContainer[MeterState]
    budget_overruns: int
    def __init__(self, version: _Optional[str] = ..., policy: _Optional[str] = ..., uptime_seconds: _Optional[float] = ..., budget: _Optional[_Union[BudgetState, _Mapping]] = ..., journal_gaps: _Optional[int] = ..., meters: _Optional[_Iterable[_Union[MeterState, _Mapping]]] = ..., budget_overruns: _Optional[int] = ...) -> None: ...

class BudgetState(_message.Message):
    __slots__ = ("window_seconds", "limit_nanojoules", "static_nanojoules", "spent_nanojoules", "reserved_nanojoules")
    WINDOW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_NANOJOULES_FIELD_NUMBER: _ClassVar[int]
    STATIC_NANOJOULES_FIELD_NUMBER: _ClassVar[int]
    SPENT_NANOJOULES_FIELD_NUMBER: _ClassVar[int]
    RESERVED_NANOJOULES_FIELD_NUMBER: _ClassVar[int]
    window_seconds: float
    limit_nanojoules: int
    static_nanojoules: int
    spent_nanojoules: int
    reserved_nanojoules: int
    def __init__(self, window_seconds: _Optional[float] = ..., limit_nanojoules: _Optional[int] = ..., static_nanojoules: _Optional[int] = ..., spent_nanojoules: _Optional[int] = ..., reserved_nanojoules: _Optional[int] = ...) -> None: ...

class MeterState(_message.Message):
    __slots__ = ("name", "boundary", "provenance", "up", "detail", "resets", "rejected", "devices")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    RESETS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    name: str
    boundary: str
    provenance: str
    up: bool
    detail: str
    resets: int
    rejected: int
    devices: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., boundary: _Optional[str] = ..., provenance: _Optional[str] = ..., up: _Optional[bool] = ..., detail: _Optional[str] = ..., resets: _Optional[int] = ..., rejected: _Optional[int] = ..., devices: _Optional[_Iterable[str]] = ...) -> None: ...

class DevicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DevicesReply(_message.Message):
    __slots__ = ("devices", "frontier")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    FRONTIER_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceState]
    frontier: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, devices: _Optional[_Iterable[_Union[DeviceState, _Mapping]]] = ..., frontier: _Optional[_Iterable[str]] = ...) -> None: ...

class DeviceState(_message.Message):
    __slots__ = ("name", "driver", "simulated", "health", "static_watts", "queued", "programs", "detail", "power", "break_even_seconds", "health_seconds", "telemetry", "fallback_of", "meters", "reopening_joules", "reopening_upper_joules", "reopening_seconds", "powered_watts")
    class TelemetryEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    STATIC_WATTS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PROGRAMS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    POWER_FIELD_NUMBER: _ClassVar[int]
    BREAK_EVEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_OF_FIELD_NUMBER: _ClassVar[int]
    METERS_FIELD_NUMBER: _ClassVar[int]
    REOPENING_JOULES_FIELD_NUMBER: _ClassVar[int]
    REOPENING_UPPER_JOULES_FIELD_NUMBER: _ClassVar[int]
    REOPENING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    POWERED_WATTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    driver: str
    simulated: bool
    health: str
    static_watts: float
    queued: int
    programs: _containers.RepeatedScalarFieldContainer[str]
    detail: str
    power: str
    break_even_seconds: float
    health_seconds: float
    telemetry: _containers.ScalarMap[str, float]
    fallback_of: str
    meters: _containers.RepeatedScalarFieldContainer[str]
    reopening_joules: float
    reopening_upper_joules: float
    reopening_seconds: float
    powered_watts: float
    def __init__(self, name: _Optional[str] = ..., driver: _Optional[str] = ..., simulated: _Optional[bool] = ..., health: _Optional[str] = ..., static_watts: _Optional[float] = ..., queued: _Optional[int] = ..., programs: _Optional[_Iterable[str]] = ..., detail: _Optional[str] = ..., power: _Optional[str] = ..., break_even_seconds: _Optional[float] = ..., health_seconds: _Optional[float] = ..., telemetry: _Optional[_Mapping[str, float]] = ..., fallback_of: _Optional[str] = ..., meters: _Optional[_Iterable[str]] = ..., reopening_joules: _Optional[float] = ..., reopening_upper_joules: _Optional[float] = ..., reopening_seconds: _Optional[float] = ..., powered_watts: _Optional[float] = ...) -> None: ...

class ModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelsReply(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelState]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelState, _Mapping]]] = ...) -> None: ...

class ModelState(_message.Message):
    __slots__ = ("name", "version", "points", "problems")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    points: _containers.RepeatedCompositeFieldContainer[PointState]
    problems: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., points: _Optional[_Iterable[_Union[PointState, _Mapping]]] = ..., problems: _Optional[_Iterable[str]] = ...) -> None: ...

class PointState(_message.Message):
    __slots__ = ("variant", "device", "steps", "accuracy", "dynamic_joules", "upper_joules", "seconds", "provenance", "artifact_digest", "margin", "kind")
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    DYNAMIC_JOULES_FIELD_NUMBER: _ClassVar[int]
    UPPER_JOULES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    variant: str
    device: str
    steps: int
    accuracy: float
    dynamic_joules: float
    upper_joules: float
    seconds: float
    provenance: str
    artifact_digest: str
    margin: int
    kind: str
    def __init__(self, variant: _Optional[str] = ..., device: _Optional[str] = ..., steps: _Optional[int] = ..., accuracy: _Optional[float] = ..., dynamic_joules: _Optional[float] = ..., upper_joules: _Optional[float] = ..., seconds: _Optional[float] = ..., provenance: _Optional[str] = ..., artifact_digest: _Optional[str] = ..., margin: _Optional[int] = ..., kind: _Optional[str] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class LoadModelReply(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelState]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelState, _Mapping]]] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class UnloadModelReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PoliciesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PoliciesReply(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[Policy]
    def __init__(self, policies: _Optional[_Iterable[_Union[Policy, _Mapping]]] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("name", "strategy", "budget_watts", "window_seconds", "min_accuracy", "pin", "in_force", "power_down")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    BUDGET_WATTS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MIN_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    POWER_DOWN_FIELD_NUMBER: _ClassVar[int]
    name: str
    strategy: str
    budget_watts: float
    window_seconds: float
    min_accuracy: float
    pin: str
    in_force: bool
    power_down: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., strategy: _Optional[str] = ..., budget_watts: _Optional[float] = ..., window_seconds: _Optional[float] = ..., min_accuracy: _Optional[float] = ..., pin: _Optional[str] = ..., in_force: _Optional[bool] = ..., power_down: _Optional[_Iterable[str]] = ...) -> None: ...

class SetPolicyRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class SetPolicyReply(_message.Message):
    __slots__ = ("previous",)
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    previous: str
    def __init__(self, previous: _Optional[str] = ...) -> None: ...

class SetLogLevelRequest(_message.Message):
    __slots__ = ("level",)
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    level: str
    def __init__(self, level: _Optional[str] = ...) -> None: ...

class SetLogLevelReply(_message.Message):
    __slots__ = ("previous",)
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    previous: str
    def __init__(self, previous: _Optional[str] = ...) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadReply(_message.Message):
    __slots__ = ("policy", "added", "removed", "changed", "needs_restart")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    NEEDS_RESTART_FIELD_NUMBER: _ClassVar[int]
    policy: str
    added: _containers.RepeatedScalarFieldContainer[str]
    removed: _containers.RepeatedScalarFieldContainer[str]
    changed: _containers.RepeatedScalarFieldContainer[str]
    needs_restart: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, policy: _Optional[str] = ..., added: _Optional[_Iterable[str]] = ..., removed: _Optional[_Iterable[str]] = ..., changed: _Optional[_Iterable[str]] = ..., needs_restart: _Optional[_Iterable[str]] = ...) -> None: ...

class EnergySummaryRequest(_message.Message):
    __slots__ = ("since_unix_nanoseconds", "until_unix_nanoseconds", "step_nanoseconds")
    SINCE_UNIX_NANOSECONDS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_UNIX_NANOSECONDS_FIELD_NUMBER: _ClassVar[int]
    STEP_NANOSECONDS_FIELD_NUMBER: _ClassVar[int]
    since_unix_nanoseconds: int
    until_unix_nanoseconds: int
    step_nanoseconds: int
    def __init__(self, since_unix_nanoseconds: _Optional[int] = ..., until_unix_nanoseconds: _Optional[int] = ..., step_nanoseconds: _Optional[int] = ...) -> None: ...

class EnergySummaryReply(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[EnergyRow]
    def __init__(self, rows: _Optional[_Iterable[_Union[EnergyRow, _Mapping]]] = ...) -> None: ...

class EnergyRow(_message.Message):
    __slots__ = ("policy", "model", "variant", "device", "provenance", "status", "requests", "dynamic_nanojoules", "static_nanojoules", "device_seconds", "provisional_requests", "provisional_dynamic_nanojoules", "provisional_static_nanojoules", "begin_unix_nanoseconds")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    DYNAMIC_NANOJOULES_FIELD_NUMBER: _ClassVar[int]
    STATIC_NANOJOULES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROVISIONAL_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    PROVISIONAL_DYNAMIC_NANOJOULES_FIELD_NUMBER: _ClassVar[int]
    PROVISIONAL_STATIC_NANOJOULES_FIELD_NUMBER: _ClassVar[int]
    BEGIN_UNIX_NANOSECONDS_FIELD_NUMBER: _ClassVar[int]
    policy: str
    model: str
    variant: str
    device: str
    provenance: str
    status: str
    requests: int
    dynamic_nanojoules: int
    static_nanojoules: int
    device_seconds: float
    provisional_requests: int
    provisional_dynamic_nanojoules: int
    provisional_static_nanojoules: int
    begin_unix_nanoseconds: int
    def __init__(self, policy: _Optional[str] = ..., model: _Optional[str] = ..., variant: _Optional[str] = ..., device: _Optional[str] = ..., provenance: _Optional[str] = ..., status: _Optional[str] = ..., requests: _Optional[int] = ..., dynamic_nanojoules: _Optional[int] = ..., static_nanojoules: _Optional[int] = ..., device_seconds: _Optional[float] = ..., provisional_requests: _Optional[int] = ..., provisional_dynamic_nanojoules: _Optional[int] = ..., provisional_static_nanojoules: _Optional[int] = ..., begin_unix_nanoseconds: _Optional[int] = ...) -> None: ...

class RequestEnergyRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    def __init__(self, request_id: _Optional[int] = ...) -> None: ...

class RequestEnergyReply(_message.Message):
    __slots__ = ("row", "energy", "accepted_unix_nanoseconds", "failed")
    ROW_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_UNIX_NANOSECONDS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    row: EnergyRow
    energy: EnergyReport
    accepted_unix_nanoseconds: int
    failed: _containers.RepeatedCompositeFieldContainer[EnergyReport]
    def __init__(self, row: _Optional[_Union[EnergyRow, _Mapping]] = ..., energy: _Optional[_Union[EnergyReport, _Mapping]] = ..., accepted_unix_nanoseconds: _Optional[int] = ..., failed: _Optional[_Iterable[_Union[EnergyReport, _Mapping]]] = ...) -> None: ...

class EnergyStreamRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FinalEnergy(_message.Message):
    __slots__ = ("request_id", "failed_attempt", "energy")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FAILED_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    failed_attempt: int
    energy: EnergyReport
    def __init__(self, request_id: _Optional[int] = ..., failed_attempt: _Optional[int] = ..., energy: _Optional[_Union[EnergyReport, _Mapping]] = ...) -> None: ...
