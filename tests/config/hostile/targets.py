"""Configurations that name what could execute something."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import composing
import torch
from hydra.core.global_hydra import GlobalHydra
from payload import MARKER, TOUCH, Payload

from sfseg.commands import data, evaluate, predict, train
from sfseg.config.composition import build
from sfseg.errors import ConfigError

composing.remember()
CODE = f"__import__('pathlib').Path({str(MARKER)!r}).touch()"
TARGETS = (
    {"_target_": "os.system", "command": TOUCH},
    {"_target_": "posix.system", "command": TOUCH},
    {"_target_": "os.popen", "cmd": TOUCH},
    {"_target_": "os.execvp", "file": "touch", "args": ["touch", str(MARKER)]},
    {"_target_": "os.posix_spawnp", "_args_": ["touch", ["touch", str(MARKER)], {}]},
    {"_target_": "subprocess.run", "args": TOUCH, "shell": True},
    {"_target_": "subprocess.Popen", "args": TOUCH, "shell": True},
    {"_target_": "subprocess.getoutput", "cmd": TOUCH},
    {"_target_": "builtins.eval", "_args_": [CODE]},
    {"_target_": "builtins.exec", "_args_": [CODE]},
    {"_target_": "builtins.open", "_args_": [str(MARKER), "w"]},
    {"_target_": "builtins.__import__", "name": "gift"},
    {"_target_": "builtins.getattr", "_args_": ["a", "upper"]},
    {"_target_": "importlib.import_module", "name": "gift"},
    {"_target_": "runpy.run_path", "path_name": "gift.py"},
    {"_target_": "code.interact"},
    {"_target_": "timeit.timeit", "stmt": CODE},
    {"_target_": "cProfile.run", "statement": CODE},
    {"_target_": "pickle.loads", "_args_": ["x"]},
    {"_target_": "pickle.load", "_args_": ["x"]},
    {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": ["x"]}]},
    {"_target_": "shutil.rmtree", "path": "kept"},
    {"_target_": "shutil.copyfile", "src": "gift.py", "dst": str(MARKER)},
    {"_target_": "functools.partial", "_args_": ["os.system"]},
    {"_target_": "operator.methodcaller", "_args_": ["system", TOUCH]},
    {"_target_": "ctypes.CDLL", "name": "libc.so.6"},
    {"_target_": "torch.load", "f": "gift.pt", "weights_only": False},
    {"_target_": "torch.serialization.load", "f": "gift.pt", "weights_only": False},
    {"_target_": "torch.jit.load", "f": "gift.pt"},
    {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "gift", "source": "local"},
    {"_target_": "torch.hub.load_state_dict_from_url", "url": "http://127.0.0.1/gift.pt"},
    {"_target_": "torch.package.PackageImporter", "file_or_buffer": "gift.pt"},
    {"_target_": "torch.multiprocessing.spawn", "fn": "gift"},
    {"_target_": "torch.utils.cpp_extension.load", "name": "a", "sources": ["gift.py"]},
    {"_target_": "torch.save", "obj": 1, "f": str(MARKER)},
    {"_target_": "torch.ops.load_library", "path": "gift.so"},
    {"_target_": "numpy.load", "file": "gift.npy", "allow_pickle": True},
    {"_target_": "pandas.read_pickle", "filepath_or_buffer": "gift.pt"},
    {"_target_": "joblib.load", "filename": "gift.pt"},
    {"_target_": "yaml.unsafe_load", "stream": "a: b"},
    {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.system", "command": TOUCH}},
    {"_target_": "hydra.utils.get_method", "path": "os.system"},
    {"_target_": "hydra.utils.call", "config": {}},
    {"_target_": "wandb.init"},
    {"_target_": "timm.create_model", "model_name": "hf-hub:a/b", "pretrained": True},
    {"_target_": "lightning.pytorch.LightningModule.load_from_checkpoint", "checkpoint_path": "g"},
    {"_target_": "lightning.pytorch.cli.LightningCLI"},
    {"_target_": "lightning.pytorch.cli.instantiate_class", "args": [], "init": {}},
    {"_target_": "lightning.pytorch.callbacks.model_checkpoint.os.system", "command": TOUCH},
    {"_target_": "lightning.pytorch.loggers.wandb.os.system", "command": TOUCH},
    {"_target_": "lightning.pytorch.trainer.trainer.os.system", "command": TOUCH},
    {"_target_": "torch.optim.lr_scheduler.types.FunctionType"},
    {"_target_": "torch.optim.lr_scheduler.partial", "_args_": ["a"]},
    {"_target_": "torch.nn.modules.module.torch.load", "f": "gift.pt", "weights_only": False},
    {"_target_": "albumentations.load", "filepath_or_buffer": "gift.yaml"},
    {"_target_": "albumentations.core.serialization.load", "filepath_or_buffer": "gift.yaml"},
    {"_target_": "sfseg.config.composition.os.system", "command": TOUCH},
    {"_target_": "sfseg.runs.folder.subprocess.run", "args": TOUCH, "shell": True},
    {
        "_target_": "sfseg.config.composition.build",
        "node": {"_target_": "os.system", "command": TOUCH},
    },
    {"_target_": "sfseg.config.composition.hydra.utils.instantiate", "config": {}},
    {"_target_": "sfseg.commands.train.train", "cfg": {}},
    {"_target_": "sfseg.config.trust.trusting", "names": ["os"]},
    {"_target_": "sfseg.config.trust._given.set", "_args_": [["os"]]},
    {"_target_": "sfseg.runs.folder.git_state", "folder": "."},
    {"_target_": "sfseg.storage.atomic.write_whole", "path": str(MARKER)},
    {"_target_": "sfseg.pseudo.making.copy_store", "source": "a", "target": "b"},
    {"_target_": "sfseg.methods.first_labels.select_labels"},
    {"_target_": "sfseg.methods.gta.torch.load", "f": "gift.pt", "weights_only": False},
    {"_target_": "sfseg.methods.gta.GtA.load_from_checkpoint", "checkpoint_path": "gift.pt"},
    {
        "_target_": "sfseg.networks.weights.checkpoint.torch.load",
        "f": "gift.pt",
        "weights_only": False,
    },
    {"_target_": "sfseg.data.layouts.Path.touch", "self": str(MARKER)},
    {"_target_": "sfseg.data.layouts.folder.__globals__"},
    {"_target_": "sfseg.methods.gta.GtA.__init__.__globals__.__getitem__", "_args_": ["os"]},
    {"_target_": "gift.run"},
    {"_target_": ".os.system"},
    {"_target_": "os.system ", "command": TOUCH},
    {"_target_": "os..system", "command": TOUCH},
    {"_target_": "ｏs.system", "command": TOUCH},  # noqa: RUF001 - it is os to Python's parser
    {"_target_": "", "command": TOUCH},
    {"_target_": 3},
    {"_target_": ["os.system"]},
    {"_target_": {"_target_": "os.system", "command": TOUCH}},
)
COMMANDS = {
    "train": (train.main, ["trainer=debug"]),
    "eval": (evaluate.main, ["ckpt_path=a.ckpt"]),
    "predict": (predict.main, ["ckpt_path=a.ckpt", "images=.", "output=out"]),
    "data": (data.main, []),
}
SETTINGS = (
    ("train", "+callbacks.gift={_target_: os.system, command: 'TOUCH'}"),
    (
        "train",
        "+method.optimizer.gift={_target_: sfseg.config.composition.os.system, command: 'TOUCH'}",
    ),
    ("train", "+logger={a: {_target_: subprocess.run, args: 'TOUCH', shell: true}}"),
    ("train", "tags=[{_target_: gift.run}]"),
    ("eval", "+callbacks.gift={_target_: gift.run}"),
    ("eval", "evaluation._target_=os.system"),
    ("predict", "+evaluation.gift={_target_: builtins.exec, _args_: [1]}"),
    ("data", "data.scenes.source_train={_target_: gift.run, _partial_: true}"),
    ("data", "data.module.labels._target_=pickle.loads"),
)


def gifts() -> None:
    """Files that leave the mark if they are imported or unpickled, and one to be kept."""
    Path("gift.py").write_text(f"{CODE}\ndef run(**_): {CODE}\n")
    torch.save({"a": Payload()}, "gift.pt")
    Path("kept").mkdir()
    Path("kept/file").write_text("kept")
    sys.path[:0] = [str(Path.cwd())]


def built(target: dict[object, object], wrap: Callable[[object], object]) -> str:
    gifts()
    try:
        build(wrap(target))
    finally:
        del sys.path[0]
        assert Path("kept/file").read_text() == "kept"
    raise AssertionError("it was built")


def inside(target: object) -> object:
    """The target where an argument is expected."""
    return {"_target_": "sfseg.data.geometry.View", "crop": [3, {"a": target}]}


def given(command: str, setting: str) -> str:
    """A command's own line of settings; its message as it is printed."""
    gifts()
    main, words = COMMANDS[command]
    first = ["preview"] if command == "data" else []
    sys.argv = [command, *first, *words, setting.replace("TOUCH", TOUCH)]
    GlobalHydra.instance().clear()
    written, sys.stderr = sys.stderr, Path("stderr").open("w")  # noqa: SIM115 - closed below
    try:
        main()
    except SystemExit as end:
        sys.stderr.close()
        assert end.code == 2, end.code
        message = Path("stderr").read_text()
        assert "Traceback" not in message and "must not be called" in message, message
        raise ConfigError(message) from None
    finally:
        sys.stderr = written
        del sys.path[0]
    raise AssertionError("the command went on")


def cases() -> Iterator[tuple[str, Callable[[], str]]]:
    for number, target in enumerate(TARGETS):
        yield f"{target['_target_']}", partial(built, target, lambda node: node)
        if number % 4 == 0:
            yield f"{target['_target_']} as an argument", partial(built, target, inside)
    for command, setting in SETTINGS:
        yield f"{command} {setting}", partial(given, command, setting)
    os.environ["WANDB_MODE"] = "offline"
