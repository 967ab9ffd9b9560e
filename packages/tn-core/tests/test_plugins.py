"""Plugins: faults stay where they arise, names lead to targets, nothing heavy is imported on the way."""

import re
import sys
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from tn_core_fakes import Install

from tn_core import UserError, hookimpl, hookspecs
from tn_core.hookspecs import PROJECT, Kind
from tn_core.plugins import FIRST_PARTY, Plugin, PluginHost, PluginWarning, default_host

IMPORT = "from tn_core import hookimpl\n"
GOOD = IMPORT + "@hookimpl\ndef priors():\n    return {'Good': 'good_parts:Good', 'Here': dict}\n"

FAULTY = {
    "no such module": ("", "ghost_module", "while loading", "ModuleNotFoundError", "ghost_module"),
    "import error": ("import a_package_that_is_missing\n", None, "while loading", "ModuleNotFoundError", "missing"),
    "syntax error": ("def broken(:\n", None, "while loading", "SyntaxError", "invalid syntax"),
    "exit": ("raise SystemExit('over and out')\n", None, "while loading", "SystemExit", "over and out"),
    "no such attribute": ("", "faulty:absent", "while loading", "AttributeError", "absent"),
    "wrong arguments": (
        IMPORT + "@hookimpl\ndef priors(spam):\n    return {}\n",
        None,
        "while registering",
        "PluginValidationError",
        "spam",
    ),
    "unknown hook": (
        IMPORT + "@hookimpl\ndef prior():\n    return {}\n",
        None,
        "while registering",
        "PluginValidationError",
        "unknown hook 'prior'",
    ),
    "raises": (
        IMPORT + "@hookimpl\ndef priors():\n    raise RuntimeError('out of\\nluck')\n",
        None,
        "when called",
        "RuntimeError",
        "out of luck",
    ),
    "exits": (
        IMPORT + "import sys\n@hookimpl\ndef models():\n    sys.exit(3)\n",
        None,
        "when called",
        "SystemExit",
        "3",
    ),
    "a list": (
        IMPORT + "@hookimpl\ndef priors():\n    return ['Bad']\n",
        None,
        "when called",
        "TypeError",
        "hook priors must return a mapping from names to targets, got list",
    ),
    "nothing": (
        IMPORT + "@hookimpl\ndef tables():\n    pass\n",
        None,
        "when called",
        "TypeError",
        "hook tables must return a mapping from names to targets, got NoneType",
    ),
    "a number as target": (
        IMPORT + "@hookimpl\ndef priors():\n    return {'Fine': dict, 'Bad': 3}\n",
        None,
        "when called",
        "TypeError",
        "hook priors: 'Bad' must map to",
    ),
    "no colon": (
        IMPORT + "@hookimpl\ndef priors():\n    return {'Bad': 'a.module.Name'}\n",
        None,
        "when called",
        "TypeError",
        "'Bad' must map to a class, a function or 'package.module:Name'",
    ),
    "a number as name": (
        IMPORT + "@hookimpl\ndef priors():\n    return {1: dict}\n",
        None,
        "when called",
        "TypeError",
        "hook priors: 1 must map to",
    ),
}


def points_of(install: Install, source: str, target: str | None) -> list[EntryPoint]:
    """A faulty plugin between two good ones, in the order of loading."""
    return [
        *install("tn-aaa", {"aaa": GOOD}, {"aaa": "aaa"}, "0.1"),
        *install("tn-faulty", {"faulty": source}, {"faulty": target or "faulty"}, "4.5"),
        *install("tn-zzz", {"zzz": GOOD.replace("Good", "Zzz").replace("Here", "There")}, {"zzz": "zzz"}),
    ]


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_plugin_is_skipped_with_one_warning(install: Install, fault: str) -> None:
    source, target, stage, error, text = FAULTY[fault]
    points = points_of(install, source, target)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        host = PluginHost(points)
        assert host.names("priors") == ["Good", "Here", "There", "Zzz"]
        for kind in get_args(Kind):  # asking again does not warn again
            host.names(kind)
    (warning,) = caught
    assert warning.category is PluginWarning
    message = str(warning.message)
    assert message.startswith(f"plugin 'faulty' (tn-faulty 4.5) skipped {stage}: {error}: ")
    assert text in message
    assert "\n" not in message
    assert {p.name: bool(p.problem) for p in host.plugins} == {"aaa": False, "faulty": True, "zzz": False}
    (faulty,) = (p for p in host.plugins if p.problem)
    assert faulty.problem.startswith(f"{stage}: {error}: ")
    assert faulty.offers == {}
    assert not host.manager.has_plugin("faulty")


@pytest.mark.parametrize("fault", FAULTY)
def test_strict_makes_it_an_error(install: Install, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, stage, error, _ = FAULTY[fault]
    points = points_of(install, source, target)
    message = re.escape(f"plugin 'faulty' (tn-faulty 4.5) skipped {stage}: {error}: ")
    with pytest.raises(UserError, match=message):
        PluginHost(points, strict=True).names("priors")
    monkeypatch.setenv("TN_PLUGINS_STRICT", "1")
    with pytest.raises(UserError, match=message):
        PluginHost(points).names("priors")


@pytest.mark.parametrize("value", ["0", ""])
def test_strict_can_be_off_in_the_environment(install: Install, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TN_PLUGINS_STRICT", value)
    with pytest.warns(PluginWarning):
        PluginHost(points_of(install, "import a_package_that_is_missing", None))


def test_strict_has_nothing_against_good_plugins(install: Install) -> None:
    assert PluginHost(install("tn-aaa", {"aaa": GOOD}, {"aaa": "aaa"}), strict=True).names("priors") == ["Good", "Here"]


def test_an_interrupt_is_not_contained(install: Install) -> None:
    points = install("tn-slow", {"slow": "raise KeyboardInterrupt\n"}, {"slow": "slow"})
    with pytest.raises(KeyboardInterrupt):
        PluginHost(points)


def test_two_faults_are_two_warnings(install: Install) -> None:
    points = [
        *install("tn-one", {"one": "raise ValueError('first')"}, {"one": "one"}),
        *install("tn-two", {"two": "raise ValueError('second')"}, {"two": "two"}),
    ]
    with pytest.warns(PluginWarning) as caught:
        PluginHost(points)
    assert [str(w.message).partition(" skipped")[0] for w in caught] == [
        "plugin 'one' (tn-one 1.2.3)",
        "plugin 'two' (tn-two 1.2.3)",
    ]


def test_no_part_of_a_plugin_that_fails_when_called_is_kept(install: Install) -> None:
    """Its good hooks come before the bad one."""
    source = IMPORT + (
        "@hookimpl\ndef priors():\n    return {'Half': dict}\n@hookimpl\ndef commands():\n    raise ValueError('no')\n"
    )
    host = PluginHost(install("tn-half", {"half": source}, {"half": "half"}))
    with pytest.warns(PluginWarning, match="'half'"):
        names = host.names("priors")
    assert names == []


@pytest.mark.parametrize("disable", ["zzz", "tn-zzz", " aaa2 , zzz ", "tn-zzz,unheard-of"])
def test_disable_by_name_or_distribution(install: Install, disable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = points_of(install, GOOD.replace("Good", "Mid").replace("Here", "Mid2"), None)
    host = PluginHost(points, disable=disable)
    assert host.names("priors") == ["Good", "Here", "Mid", "Mid2"]
    assert [p.problem for p in host.plugins] == ["", "", "disabled by TN_PLUGINS_DISABLE"]
    monkeypatch.setenv("TN_PLUGINS_DISABLE", disable)
    assert PluginHost(points).names("priors") == ["Good", "Here", "Mid", "Mid2"]


def test_a_disabled_plugin_is_not_imported(install: Install) -> None:
    points = install("tn-loud", {"loud": "raise ValueError('imported')"}, {"loud": "loud"})
    PluginHost(points, disable="loud", strict=True)
    assert "loud" not in sys.modules


def test_a_star_leaves_the_six_packages(install: Install) -> None:
    first = [
        point
        for i, name in enumerate(FIRST_PARTY)
        for point in install(
            name,
            {f"first_{i}": IMPORT + f"@hookimpl\ndef priors():\n    return {{'P{i}': dict}}\n"},
            {f"plugin-{i}": f"first_{i}"},
        )
    ]
    stranger = install("tn-stranger", {"stranger": "raise ValueError('imported')"}, {"stranger": "stranger"})
    unowned = EntryPoint("unowned", "stranger", PROJECT)
    host = PluginHost([*stranger, unowned, *first], disable="*", strict=True)
    assert host.names("priors") == ["P0", "P1", "P2", "P3", "P4", "P5"]
    assert {p.name for p in host.plugins if p.problem} == {"stranger", "unowned"}
    assert {p.problem for p in host.plugins if p.problem} == {"disabled by TN_PLUGINS_DISABLE"}


def test_duplicate_names_name_both(install: Install) -> None:
    points = [
        *install("tn-aaa", {"aaa": GOOD}, {"aaa": "aaa"}, "0.1"),
        *install("tn-bbb", {"bbb": GOOD}, {"bbb": "bbb"}, "0.2"),
    ]
    with pytest.raises(UserError) as caught:
        PluginHost(points).names("priors")
    message = str(caught.value)
    for part in ("'Good'", "priors", "'aaa' (tn-aaa 0.1)", "'bbb' (tn-bbb 0.2)", "TN_PLUGINS_DISABLE"):
        assert part in message
    assert PluginHost(points, disable="tn-bbb").get("priors", "Here") is dict


def test_one_name_for_two_kinds_is_fine() -> None:
    class Both:
        @hookimpl
        def priors(self) -> dict[str, object]:
            return {"X": dict}

        @hookimpl
        def models(self) -> dict[str, object]:
            return {"X": list}

    host = PluginHost([], strict=True)
    host.register(Both())
    assert host.get("priors", "X") is dict
    assert host.get("models", "X") is list


def test_a_first_party_is_there_before_a_stranger_of_the_same_name(install: Install) -> None:
    """The entry points come in any order; the one that is warned about is the stranger."""
    stranger = install("aaa-stranger", {"stranger": GOOD}, {"tn-gan": "stranger"})
    own = install("tn-gan", {"own": GOOD.replace("Good", "Own").replace("Here", "There")}, {"tn-gan": "own"})
    with pytest.warns(PluginWarning, match=r"'tn-gan' \(aaa-stranger 1.2.3\)"):
        host = PluginHost([*stranger, *own])
    assert host.names("priors") == ["Own", "There"]


def test_two_entry_points_of_one_module_leave_the_first_in_place(install: Install) -> None:
    points = install("tn-aaa", {"aaa": GOOD}, {"aaa": "aaa", "again": "aaa"})
    with pytest.warns(PluginWarning, match="'again'"):
        host = PluginHost(points)
    assert host.names("priors") == ["Good", "Here"]


def test_registering_by_hand_twice_keeps_the_first() -> None:
    plugin = SimpleNamespace(priors=hookimpl(lambda: {"X": dict}))
    host = PluginHost([])
    host.register(plugin)
    with pytest.warns(PluginWarning):
        host.register(plugin)
    assert host.names("priors") == ["X"]


def test_a_plugin_registered_by_hand_after_the_first_question() -> None:
    host = PluginHost([])
    assert host.names("priors") == []
    host.register(SimpleNamespace(priors=hookimpl(lambda: {"X": dict})))
    assert host.names("priors") == ["X"]
    assert host.plugins == [Plugin("SimpleNamespace", "registered by hand", "", {"priors": ("X",)})]


def named(*names: str) -> PluginHost:
    host = PluginHost([], strict=True)
    host.register(SimpleNamespace(priors=hookimpl(lambda: dict.fromkeys(names, dict))))
    return host


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("trip", "TRIP"), ("TRIPP", "TRIP"), ("Vampprior", "VampPrior"), ("gausian", "Gaussian")],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong: str, near: str) -> None:
    host = named("TRIP", "VampPrior", "Gaussian")
    with pytest.raises(UserError) as caught:
        host.get("priors", wrong)
    assert str(caught.value) == (f"no prior is called {wrong!r}; did you mean {near}? known: Gaussian, TRIP, VampPrior")


def test_a_name_far_from_all_gets_the_list_alone() -> None:
    with pytest.raises(UserError) as caught:
        named("TRIP", "VampPrior").check("priors", "qqq")
    assert str(caught.value) == "no prior is called 'qqq'; known: TRIP, VampPrior"
    with pytest.raises(UserError, match="known: none: no installed package offers models"):
        named("TRIP").check("models", "VAE")


def test_a_known_name_passes_the_check() -> None:
    host = named("TRIP")
    host.check("priors", "TRIP")
    assert host.get("priors", "TRIP") is dict


def test_lazy_targets_are_imported_when_asked_for(install: Install) -> None:
    points = install("tn-aaa", {"aaa": GOOD, "good_parts": "class Good:\n    pass\n"}, {"aaa": "aaa"})
    host = PluginHost(points, strict=True)
    host.check("priors", "Good")
    assert host.plugins[0].offers == {"priors": ("Good", "Here")}
    assert "good_parts" not in sys.modules
    assert host.get("priors", "Good").__name__ == "Good"
    assert "good_parts" in sys.modules


def lazy(install: Install, source: str, target: str = "parts_of_lazy:Part") -> PluginHost:
    """A host whose prior Part is at ``target``."""
    module = IMPORT + f"@hookimpl\ndef priors():\n    return {{'Part': {target!r}}}\n"
    return PluginHost(
        install("tn-lazy", {"lazy_plugin": module, "parts_of_lazy": source}, {"lazy": "lazy_plugin"}), strict=True
    )


@pytest.mark.parametrize(
    ("needed", "package", "line"),
    [
        ("a_missing_package", "a_missing_package", "python -m pip install a-missing-package"),
        ("a_missing_package.deep.down", "a_missing_package", "python -m pip install a-missing-package"),
    ],
)
def test_a_missing_package_gives_the_install_line(install: Install, needed: str, package: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        lazy(install, f"import {needed}\nPart = dict\n").get("priors", "Part")
    message = str(caught.value)
    assert message.startswith(f"'Part' of plugin 'lazy' (tn-lazy 1.2.3) needs the package {package!r}: ")
    assert message.endswith(line)


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("sklearn", "scikit-learn"),
        ("PIL", "pillow"),
        ("yaml", "pyyaml"),
        ("lightning", "'tn-core[train]'"),
        ("lightning.pytorch", "'tn-core[train]'"),
    ],
)
def test_packages_whose_names_differ(install: Install, package: str, line: str) -> None:
    source = f"raise ModuleNotFoundError('gone', name={package!r})\n"  # these packages may well be installed
    with pytest.raises(UserError, match=re.escape(f"python -m pip install {line}") + "$"):
        lazy(install, source).get("priors", "Part")


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ("", "parts_of_lazy:Absent", "AttributeError"),
        ("raise OSError('no library')", "parts_of_lazy:Part", "OSError: no library"),
        ("raise SystemExit(2)", "parts_of_lazy:Part", "SystemExit: 2"),
        ("from tn_core import no_such_name", "parts_of_lazy:Part", "ImportError"),
    ],
)
def test_a_target_that_cannot_be_imported(install: Install, source: str, target: str, error: str) -> None:
    with pytest.raises(UserError) as caught:
        lazy(install, source, target).get("priors", "Part")
    message = str(caught.value)
    assert "'Part' of plugin 'lazy' (tn-lazy 1.2.3)" in message
    assert target in message
    assert error in message


def test_a_misspelt_module_is_not_a_package_to_install(install: Install) -> None:
    """The plugin's own package is there; telling the user to install it would lead nowhere."""
    with pytest.raises(UserError) as caught:
        lazy(install, "", "tn_core.no_such_module:Part").get("priors", "Part")
    assert "pip install" not in str(caught.value)
    assert "tn_core.no_such_module" in str(caught.value)


@pytest.mark.filterwarnings("ignore::tn_core.plugins.PluginWarning")  # what else is installed may be broken
def test_installed_plugins_are_found(install: Install) -> None:
    install("tn-aaa", {"aaa": GOOD}, {"aaa": "aaa"})
    host = PluginHost()
    assert {"Good", "Here"} <= set(host.names("priors"))
    assert {"fit", "plugins"} <= set(host.names("commands"))
    (core,) = (p for p in host.plugins if p.name == "tn-core")
    assert core.distribution.startswith("tn-core ")
    assert set(core.offers) == {"commands"}
    ranks = [p.distribution.partition(" ")[0] in FIRST_PARTY for p in host.plugins]
    assert ranks == sorted(ranks, reverse=True)


@pytest.mark.filterwarnings("ignore::tn_core.plugins.PluginWarning")
def test_the_host_of_the_process_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TN_PLUGINS_DISABLE", "*")
    default_host.cache_clear()
    try:
        assert default_host() is default_host()
    finally:
        default_host.cache_clear()


def test_every_hook_has_a_kind_and_a_docstring() -> None:
    specified = {name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), f"{PROJECT}_spec")}
    assert specified == set(get_args(Kind))
    assert all(getattr(hookspecs, name).__doc__ for name in specified)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_hook_has_its_page(kind: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "plugins.md").read_text()
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert kind in sections, f"docs/plugins.md has no section '## {kind}'"
    code = re.search(r"```python\n(.*?)```", sections[kind], re.DOTALL)
    assert code is not None, f"the section on {kind} has no example"
    # the example works: registered as a plugin it offers one name
    namespace: dict[str, object] = {"hookimpl": hookimpl}
    exec(code.group(1), namespace)
    host = PluginHost([], strict=True)
    host.register(SimpleNamespace(**{kind: namespace[kind]}))
    assert len(host.names(kind)) == 1  # type: ignore[arg-type]
