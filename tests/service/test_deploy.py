"""The manifests of ``deploy/``: whole, safe, and with arguments that the command line takes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from penstock.cli.main import parser as command_line
from penstock.service.configuration import check_identity, wanted_versions
from penstock.service.probe import PREFIX
from penstock.service.probe import main as probe
from penstock.service.settings import Settings
from tests.service.bundles import add_bundle

DEPLOY = Path(__file__).parents[2] / "deploy"
KSERVE = DEPLOY / "kserve"


def manifest(name: str) -> Any:
    return yaml.safe_load((KSERVE / name).read_text())


def pod(name: str) -> Any:
    """The part with containers and volumes."""
    spec = manifest(name)["spec"]
    return spec.get("predictor", spec)


WITH_CONTAINERS = pytest.mark.parametrize("name", ["runtime.yaml", "predictor.yaml"])


def test_every_manifest_is_of_kserve() -> None:
    kinds = {file.name: yaml.safe_load(file.read_text()) for file in KSERVE.glob("*.yaml")}
    assert {name: (found["apiVersion"], found["kind"]) for name, found in kinds.items()} == {
        "runtime.yaml": ("serving.kserve.io/v1alpha1", "ClusterServingRuntime"),
        "model.yaml": ("serving.kserve.io/v1beta1", "InferenceService"),
        "predictor.yaml": ("serving.kserve.io/v1beta1", "InferenceService"),
    }


def test_model_names_the_runtime_and_what_it_speaks() -> None:
    runtime, model = manifest("runtime.yaml"), manifest("model.yaml")["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"] == ["grpc-v2"]
    assert model["modelFormat"] in [
        {"name": known["name"], "version": known["version"]}
        for known in runtime["spec"]["supportedModelFormats"]
    ]


@WITH_CONTAINERS
def test_arguments_are_settings(name: str) -> None:
    (container,) = pod(name)["containers"]
    settings = parsed(container["args"])
    assert settings.model_repository == Path("/mnt/models")
    assert settings.host == "0.0.0.0"
    assert settings.grace_seconds < 30, "Kubernetes kills after 30 seconds"
    assert container["name"] == "kserve-container"
    assert [port["containerPort"] for port in container["ports"]] == [settings.grpc_port]
    if name == "runtime.yaml":
        annotations = manifest(name)["spec"]["annotations"]
        assert annotations["prometheus.kserve.io/port"] == str(settings.metrics_port)
    else:
        assert None not in (settings.tls_certificate, settings.inference_tokens, settings.control_tokens)
        variables = {entry["name"] for entry in container["env"]}
        assert {f"{PREFIX}AUTHORITY", f"{PREFIX}SERVER_NAME"} <= variables


def parsed(arguments: list[str]) -> Settings:
    """As ``penstock serve`` reads its arguments."""
    found = vars(command_line().parse_args(["serve", *arguments]))
    flags = {name: value for name, value in found.items() if name not in ("command", "run", "config")}
    return Settings.read({}, **flags)


@WITH_CONTAINERS
def test_container_may_do_little(name: str) -> None:
    (container,) = pod(name)["containers"]
    context = container["securityContext"]
    assert context["runAsNonRoot"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    user = re.search(r"^USER (\d+)", (DEPLOY.parent / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    assert context["runAsUser"] == int(user[1])
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod(name)["volumes"]}
    assert "/tmp" in mounts.values()


@WITH_CONTAINERS
def test_probe_is_one_that_works(name: str, server: Any) -> None:
    (container,) = pod(name)["containers"]
    python, module, program, target, *model = container["readinessProbe"]["exec"]["command"]
    assert (python, module, program) == ("python", "-m", "penstock.service.probe")
    assert target == f"127.0.0.1:{container['ports'][0]['containerPort']}"
    assert probe([server.url, *["batched" for _ in model]], {}) == 0


def test_application_for_ray_names_what_is_there() -> None:
    config = yaml.safe_load((DEPLOY / "ray" / "serve.yaml").read_text())
    (function,) = config["grpc_options"]["grpc_servicer_functions"]
    module, _, name = function.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    source = importlib.util.find_spec(module)
    assert source is not None
    assert f"def {name}(" in Path(str(source.origin)).read_text()
    arguments = application["args"]
    own = {name: arguments.pop(name) for name in ("replicas", "cpus", "at_once")}
    assert all(isinstance(value, int) for value in own.values())
    assert Settings.read({}, **arguments).model_control_mode == "poll"


def test_configuration_for_triton_is_served_here_too(tmp_path: Path, start: Any) -> None:
    text = (DEPLOY / "triton" / "config.pbtxt").read_text()
    shown = text_format.Parse(text, model_config_pb2.ModelConfig())
    check_identity(shown, "resnet20")
    assert wanted_versions(shown, [1, 2]) == [2]
    folder = add_bundle(tmp_path / "models", "resnet20")
    own = text_format.Parse((folder.parent / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert [tensor.name for tensor in shown.output] == [tensor.name for tensor in own.output]
    assert [tensor.data_type for tensor in shown.output] == [tensor.data_type for tensor in own.output]
    for field in ("version_policy", "instance_group", "dynamic_batching", "parameters"):
        own.ClearField(field)
        own.MergeFrom(only(shown, field))
    (folder.parent / "config.pbtxt").write_text(text_format.MessageToString(own))
    with start(tmp_path / "models") as running:
        assert probe([running.url, "resnet20"], {}) == 0


def only(config: Any, field: str) -> Any:
    part = model_config_pb2.ModelConfig()
    part.CopyFrom(config)
    for other, _ in config.ListFields():
        if other.name != field:
            part.ClearField(other.name)
    return part
