"""Settings come from four places in order, and everything wrong with them is said at once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mesh.errors import SetupError
from mesh.roles import custom
from mesh.settings.load import address_fault, load, render
from mesh.settings.toml import DEPTH_MAX

NODE = """
name = "n0"
topology = "topology.toml"
data = "var"
[listen]
http = "127.0.0.1:8000"
peer = "127.0.0.1:7000"
"""
TOPOLOGY = """
[mesh]
name = "test"
nodes = ["n0", "n1"]
[models.one]
source = "path:one"
[roles.shout]
kind = "tests.support.roles:Shout"
model = "one"
nodes = ["n0"]
sleep_s = 0.5
[pipelines.p]
input = ["query"]
output = ["loud"]
[[pipelines.p.stages]]
name = "shout"
role = "shout"
take = { text = "query" }
give = { text = "loud" }
"""


@pytest.fixture
def files(tmp_path):
    def write(node: str = NODE, topology: str = TOPOLOGY):
        (tmp_path / "node.toml").write_text(node)
        (tmp_path / "topology.toml").write_text(topology)
        return tmp_path / "node.toml"

    return write


def problems(path, **more) -> list[str]:
    """Return what is wrong, with the folder cut off."""
    with pytest.raises(SetupError) as caught:
        load(path, kind_of=custom.find, **more)
    return [problem.replace(f"{path.parent}/", "") for problem in caught.value.problems]


def test_paths_are_relative_to_the_file(files, tmp_path):
    settings = load(files())
    assert settings.node.topology == tmp_path / "topology.toml"
    assert settings.node.data == tmp_path / "var"
    assert settings.topology.models["one"].source == f"path:{tmp_path}/one"


def test_command_line_wins_over_environment_over_file(files):
    environ = {"MESH__LISTEN__HTTP": "127.0.0.1:1", "MESH__LIMITS__DRAIN_S": "5"}
    settings = load(files(), environ=environ, overrides=["limits.drain_s=7"])
    assert settings.node.listen.http == "127.0.0.1:1"
    assert settings.node.limits.drain_s == 7.0
    assert settings.node.listen.peer == "127.0.0.1:7000"


@pytest.mark.parametrize("text", ["a:1,b:2", "a:1, b:2", '["a:1", "b:2"]'])
def test_lists_come_from_text_by_commas_or_as_toml(files, text):
    settings = load(files(), environ={"MESH__JOIN__SEEDS": text})
    assert settings.node.join.seeds == ("a:1", "b:2")


def test_strings_from_the_environment_are_never_read_as_something_else(files):
    settings = load(files(), environ={"MESH__SECURITY__SECRET": "123", "MESH__NAME": "n1"})
    assert (settings.node.security.secret, settings.node.name) == ("123", "n1")


def test_options_of_a_role_are_its_unknown_keys(files):
    assert load(files()).topology.roles["shout"].options == {"sleep_s": 0.5}


def test_every_problem_is_reported_at_once(files):
    node = """
name = 5
topology = "topology.toml"
colour = "red"
[listen]
http = "127.0.0.1:x"
pear = "127.0.0.1:1"
[limits]
drain_s = -1
queue_max = "many"
[compute]
device = "gpu"
"""
    assert problems(files(node, "[mesh]\nnam = 'x'\n[models.a]\nsource = 'one'\n")) == [
        "node.toml:2: name: expected str, found 5",
        "node.toml:7: listen.pear: expected one of http, peer, found an unknown key; "
        'did you mean "peer"?',
        "node.toml:12: compute.device: expected one of auto, cpu, cuda, found 'gpu'",
        "node.toml:10: limits.queue_max: expected int, found 'many'",
        "node.toml:9: limits.drain_s: expected float >= 0.0, found -1",
        "node.toml:4: colour: expected one of advertise, compute, data, gossip, join, limits, "
        "listen, log, name, security, topology, found an unknown key",
        "topology.toml:1: mesh.name: expected a value (str), found nothing",
        "topology.toml:2: mesh.nam: expected one of epoch, name, nodes, found an unknown key; "
        'did you mean "name"?',
        'topology.toml:4: models.a.source: expected "wheel:…", "hf:…" or "path:…", found \'one\'',
    ]


CROSS = [
    ('model = "one"', 'model = "on"', "toml:9: roles.shout.model: expected one of one, found 'on'"),
    ("sleep_s", "slep_s", "shout.slep_s: expected one of sleep_s (options of kind"),
    ('nodes = ["n0"]\nsleep', 'nodes = ["n7"]\nsleep', "nodes: expected one of n0, n1, found 'n7'"),
    ('nodes = ["n0"]\nsleep', "sleep", "expected nodes = […] or replicas = n, found neither"),
    (":Shout", ":Shoot", "roles.shout.kind: expected a kind of role, found 'tests"),
    ("tests.support.roles:Shout", "embedd", "did you mean 'embed'"),
    ('{ text = "query" }', '{ text = "qery" }', "stage 'shout' takes 'qery', which nothing gives"),
    ('{ text = "query" }', '{ txt = "query" }', "stages.0.take: expected one of text, found 'txt'"),
    ('{ text = "query" }', "{}", "take: expected 'text', which the role needs, found nothing"),
    ('{ text = "loud" }', '{ txt = "loud" }', "stages.0.give: expected one of text, found 'txt'"),
    ('output = ["loud"]', 'output = ["lout"]', "output 'lout' is given by no stage"),
    ('role = "shout"', 'role = "shut"', "stage 'shout' calls role 'shut', which is not in [roles]"),
    ('"n0", "n1"', '"n1", "n2"', "mesh.nodes: expected 'n0', this node's name, among them"),
    ("sleep_s = 0.5", 'versions = { b = { role = "c" } }', "b.role: expected one of shout"),
    ("sleep_s = 0.5", 'versions = { b = { role = "shout", share = 0.6 }, c = { role = "shout", '
     "share = 0.6 } }", "roles.shout.versions: expected shares of at most 1 together, found 1.2"),
    ("sleep_s = 0.5", 'replicas = 1', "expected either nodes or replicas, found both"),
    ("sleep_s = 0.5", 'layers = "auto"\nreplicas = 2', "expected at most 1 chains, one for each"),
    ("sleep_s = 0.5", 'layers = "auto"\nreplicas = { max = 2 }', "expected a number of chains"),
    ('nodes = ["n0"]\nsleep_s = 0.5', 'layers = "auto"\nreplicas = 2', "share the layers, found"),
    ("[mesh]", "[mesh", "file: expected TOML, found a mistake"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), CROSS)
def test_faults_between_tables_are_found(files, old, new, expected):
    assert old in TOPOLOGY
    found = problems(files(topology=TOPOLOGY.replace(old, new)))
    assert any(expected in problem for problem in found), found


def test_missing_files_are_named(files, tmp_path):
    path = files()
    (tmp_path / "topology.toml").unlink()
    assert "topology.toml: file: expected a TOML file, found no such file" in problems(path)[0]
    (problem,) = problems(tmp_path / "nope.toml", overrides=["name=n0"])
    assert "nope.toml: file: expected a TOML file" in problem


def test_unknown_variables_and_overrides_are_reported(files):
    environ = {"MESH__LISTEN__HTPP": "x", "MESHX": "ignored", "MESH_CACHE": "ignored"}
    assert problems(files(), environ=environ, overrides=["nope=1", "name"]) == [
        "environment MESH__LISTEN__HTPP: listen.htpp: expected a key of node.toml, found an "
        'unknown key; did you mean "listen.http"?',
        "command line: nope: expected a key of node.toml, found an unknown key",
        "command line: name: expected --set KEY=VALUE, found 'name'",
    ]


def test_class_of_a_role_elsewhere_need_not_be_here(files):
    topology = TOPOLOGY.replace("tests.support.roles:Shout", "nowhere:Nothing")
    topology = topology.replace('nodes = ["n0"]\nsleep', 'nodes = ["n1"]\nsleep')
    load(files(topology=topology), kind_of=custom.find)


def test_a_class_may_lie_beside_the_topology(files, tmp_path, monkeypatch):
    """Wherever the node is started; what lies elsewhere on the Python path goes first."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "lying_beside.py").write_text(
        "from mesh.roles.base import Role\nclass Here(Role):\n"
        "    takes, gives = {'text': str}, ('text',)\n    def run(self, batch): return batch\n"
    )
    topology = TOPOLOGY.replace("tests.support.roles:Shout", "lying_beside:Here")
    load(files(topology=topology.replace("sleep_s = 0.5", "")), kind_of=custom.find)
    assert str(tmp_path) == sys.path[-1]


ADDRESSES = [
    ("127.0.0.1:0", True, ""),
    ("[::1]:80", False, ""),
    ("host.example:65535", False, ""),
    ("127.0.0.1:0", False, '"host:port" with a port from 1 to 65535'),
    ("127.0.0.1:65536", True, '"host:port" with a port from 0 to 65535'),
    ("127.0.0.1", True, '"host:port"'),
    (":80", True, '"host:port"'),
    ("http://x:80", True, '"host:port"'),
    ("::1:80", True, '"[address]:port" for IPv6'),
    ("host:٣", True, '"host:port" with a port from 0 to 65535'),
]  # fmt: skip


@pytest.mark.parametrize(("address", "may_be_zero", "fault"), ADDRESSES)
def test_addresses_are_host_and_port(address, may_be_zero, fault):
    assert fault == address_fault(address, may_be_zero=may_be_zero)


def test_show_tells_value_and_origin_and_hides_secrets(files):
    environ = {"MESH__SECURITY__SECRET": "planted", "MESH__SECURITY__API_KEYS": "planted2"}
    path = files()
    lines = list(render(load(path, environ=environ, overrides=["limits.drain_s=1"])))
    assert f'name = "n0"  # {path}' in lines
    assert 'security.secret = "(hidden)"  # environment MESH__SECURITY__SECRET' in lines
    assert "limits.drain_s = 1.0  # command line" in lines
    assert "limits.deadline_s = 60.0  # default" in lines
    assert any(line.startswith("topology.roles.shout.options.sleep_s = 0.5") for line in lines)
    assert "planted" not in "\n".join(lines)


def test_secrets_are_hidden_in_problems(files):
    found = problems(files(NODE + "[security]\nsecret = ['planted']\n"))
    assert "planted" not in "\n".join(found)


@pytest.mark.parametrize("name", ["n0", "n1", "n2"])
def test_the_examples_are_in_order(name):
    """What the repository ships must start."""
    assert load(Path(__file__).parents[3] / "config" / f"{name}.toml").node.name == name


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("9" * 25, "finite numbers of 63 bits, found 999"),
        ("0x" + "f" * 9000, "finite numbers of 63 bits, found a number of thousands of digits"),
        ("9" * 5000, "expected TOML"),
        ("nan", "finite numbers of 63 bits, found nan"),
        ("[" * 5000 + "]" * 5000, f"more than {DEPTH_MAX} tables or lists"),
        ("[" * 200 + "]" * 200, f"more than {DEPTH_MAX} tables or lists"),
    ],
)
def test_a_value_that_no_message_can_carry_is_a_mistake(files, value, reason):
    """A node that took such an epoch over ended when it told the others."""
    (problem,) = problems(files(topology=TOPOLOGY.replace("[mesh]", f"[mesh]\nepoch = {value}")))
    assert reason in problem
