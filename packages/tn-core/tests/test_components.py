"""Components are built from names and arguments, inner ones first, and mistakes are answered by name."""

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Annotated, Any

import pytest

from tn_core import UserError, hookimpl
from tn_core.components import PROVIDED, Component, build, components_of
from tn_core.plugins import PluginHost


class Prior:
    """Has no component in it."""

    def __init__(self, features: int, rank: int = 4, labels: Sequence[int] = ()) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.features, self.rank, self.labels = features, rank, labels


class Flow:
    """A prior with a prior in it."""

    def __init__(self, base: Annotated[Prior, Component("priors", "Prior")], layers: int = 2) -> None:
        self.base, self.layers = base, layers


def net(shape: tuple[int, ...], width: int = 8) -> dict[str, Any]:
    """A function as target."""
    return {"shape": shape, "width": width}


class Model:
    """Two components, one of which must be chosen."""

    def __init__(
        self,
        network: Annotated[Any, Component("networks")],
        prior: Annotated[Any, "another note", Component("priors", "Prior")],
        features: int = 2,
        beta: float = 1.0,
    ) -> None:
        self.network, self.prior, self.features, self.beta = network, prior, features, beta


class Sized:
    """Says what its network is to be made for, by its prior."""

    def __init__(
        self,
        network: Annotated[object, Component("networks", "net", "network_size")],
        prior: Annotated[object, Component("priors", "Prior")],
        features: int,
        extra: int = 5,
    ) -> None:
        self.network, self.prior = network, prior

    @staticmethod
    def network_size(features: int, prior: Prior, extra: int, **_: object) -> dict[str, object]:
        return {"shape": (features, prior.rank, extra)}


def buggy() -> None:
    """Raises what is no mistake of the user."""
    raise RuntimeError("a bug")


@pytest.fixture
def host() -> PluginHost:
    host = PluginHost([], strict=True)
    host.register(
        SimpleNamespace(
            priors=hookimpl(lambda: {"Prior": Prior, "Flow": Flow, "Lazy": f"{__name__}:Prior", "buggy": buggy}),
            networks=hookimpl(lambda: {"net": net}),
            models=hookimpl(lambda: {"Model": Model, "Sized": Sized}),
        )
    )
    return host


def test_components_of() -> None:
    assert components_of(Model) == {"network": Component("networks"), "prior": Component("priors", "Prior")}
    assert components_of(Flow) == {"base": Component("priors", "Prior")}
    assert components_of(net) == {}
    assert components_of(type("Bare", (), {})) == {}

    def command(model: Annotated[object, Component("models")], count: Annotated[int, "how many"] = 1) -> None: ...

    assert components_of(command) == {"model": Component("models")}


def test_nested_components_are_built_first(host: PluginHost) -> None:
    spec = {
        "name": "Model",
        "beta": 0.5,
        "network": {"name": "net", "width": 3},
        "prior": {"name": "Flow", "layers": 7, "base": {"name": "Prior", "rank": 9}},
    }
    model = build(spec, "models", host, shape=(1, 8, 8), features=5, labels=[2, 3])
    assert isinstance(model, Model)
    assert model.network == {"shape": (1, 8, 8), "width": 3}
    assert isinstance(model.prior, Flow)
    assert model.prior.layers == 7
    assert isinstance(model.prior.base, Prior)
    assert (model.prior.base.rank, model.prior.base.features, model.prior.base.labels) == (9, 5, [2, 3])
    assert (model.features, model.beta) == (5, 0.5)
    # the spec goes into the config of the run afterwards: it must still be what it was
    assert spec["prior"] == {"name": "Flow", "layers": 7, "base": {"name": "Prior", "rank": 9}}
    assert spec["name"] == "Model"


def test_a_name_alone_is_a_component(host: PluginHost) -> None:
    model = build({"name": "Model", "network": "net", "prior": "Flow"}, "models", host, shape=(2,), features=3)
    assert model.network == {"shape": (2,), "width": 8}
    assert isinstance(model.prior, Flow)
    assert model.prior.base.features == 3


def test_defaults_of_components(host: PluginHost) -> None:
    model = build({"name": "Model", "network": "net"}, "models", host, shape=(2,), features=3)
    assert isinstance(model.prior, Prior)


def test_a_component_that_is_already_built_is_taken(host: PluginHost) -> None:
    prior = Prior(1)
    assert build({"name": "Flow", "base": prior}, "priors", host).base is prior


def test_lazy_targets_are_built(host: PluginHost) -> None:
    assert build({"name": "Lazy", "features": 2}, "priors", host).features == 2


def test_what_is_provided_yields_to_what_is_written(host: PluginHost) -> None:
    assert build({"name": "Prior", "features": 2}, "priors", host, features=9).features == 2
    assert build({"name": "Prior"}, "priors", host, features=9, labels=None).labels == ()
    assert build({"name": "Prior"}, "priors", host, features=0).features == 0


def test_only_arguments_that_exist_are_provided(host: PluginHost) -> None:
    everything = {"shape": (1,), "features": 2, "outputs": 3, "labels": [4], "root": "here"}
    assert set(everything) == set(PROVIDED)
    assert build({"name": "net"}, "networks", host, **everything) == {"shape": (1,), "width": 8}


def test_a_component_is_sized_by_its_surroundings(host: PluginHost) -> None:
    """What sizes another component is built first, whatever their order."""

    spec = {"name": "Sized", "network": {"name": "net"}, "prior": {"name": "Prior", "rank": 7}}
    built = build(spec, "models", host, shape=(1,), features=2)
    assert built.network["shape"] == (2, 7, 5)
    assert build({**spec, "extra": 6}, "models", host, shape=(1,), features=2).network["shape"] == (2, 7, 6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"rank": 3}, r"a component of kind priors needs a name, got \{'rank': 3\}"),
        ({"name": 3}, r"a component of kind priors needs a name, got \{'name': 3\}"),
        ({"name": "Pior"}, "no prior is called 'Pior'; did you mean Prior"),
        ({"name": "Model"}, "no prior is called 'Model'"),
        (
            {"name": "Prior"},
            r"Prior: missing a required argument: 'features'; its arguments are features, rank, labels",
        ),
        ({"name": "Prior", "features": 1, "rnk": 2}, r"Prior: got an unexpected keyword argument 'rnk'; its arguments"),
        ({"name": "Prior", "features": 1, "rank": 0}, "Prior: rank must be at least 1, got 0"),
        ({"name": "Flow", "base": "Pior"}, "no prior is called 'Pior'"),
        ({"name": "Flow", "base": {"rank": 2}}, "a component of kind priors needs a name"),
        ({"name": "Flow", "base": {"name": "Prior", "features": 1, "rank": -3}}, "Prior: rank must be .* got -3"),
        ({"name": "Flow", "base": {"name": "Prior"}}, "Prior: missing a required argument: 'features'"),
    ],
)
def test_mistakes_are_user_errors(host: PluginHost, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(spec, "priors", host)


def test_a_component_without_default_is_missed_by_name(host: PluginHost) -> None:
    with pytest.raises(UserError, match="Model: missing a required argument: 'network'"):
        build({"name": "Model", "prior": "Prior"}, "models", host, features=2)


@pytest.mark.parametrize("name", ["os:getcwd", "os.getcwd", "builtins:dict", f"{__name__}:Prior", "__class__", ""])
def test_names_are_never_import_paths(host: PluginHost, name: str) -> None:
    with pytest.raises(UserError, match="no prior is called"):
        build({"name": name}, "priors", host)
    assert os.getcwd()


def test_a_bug_in_a_component_keeps_its_traceback(host: PluginHost) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        build({"name": "buggy"}, "priors", host)
