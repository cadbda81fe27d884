"""features.sh, linear_probe.sh, partial_finetuning.sh and adapter.sh, as a user types them."""

import os
import signal
import stat
import time
from pathlib import Path

import pandas as pd
import pytest

from engine import datasets
from engine.results.runs import read_record
from forks import run_fork
from sweeps import ROOT, Sweep, run_calls

STEPS = ["--max-iter", "120"]
NAME = "all_demo-RN_linear_hand_crafted_flip_1_{}_wiseft_{}_iter_120"
CROSS = "--modality cross_modal --classifier_init zeroshot".split()
UNI = "--modality uni_modal --classifier_init random".split()


@pytest.fixture(scope="session")
def probed(extracted):
    """The eleven datasets, swept by linear_probe.sh, 1 shot."""
    words = [*extracted.indices, *extracted.feature, *extracted.result, *STEPS]
    extracted.probe = Sweep("linear_probe.sh", *words, folder=extracted.root / "probe", GPUS="0 1", SHOTS="1").wait(
        check=0
    )
    return extracted


def runs_that_were_tested(folder):
    records = [read_record(path) for path in Path(folder).rglob("record.json")]
    return {(r.cell.dataset, r.cell.modality): r for r in records if r.tested}


def test_the_eleven_datasets_from_features_to_the_average(probed, script):
    """Each cell of both tables equals the record of the selected run, and the average is the mean of the cells."""
    runs = runs_that_were_tested(probed.result[1])
    assert len(runs) == 22
    for words, modality, init in ((CROSS, "cross_modal", "text"), (UNI, "uni_modal", "random")):
        for wise_ft in (False, True):
            inputs = "--clip-encoder demo-RN --train-shot 1 --seed 1 --wise_ft".split()
            done = script(
                "eval.py", "--mode", "linear", *words, *inputs, wise_ft, *STEPS, *probed.result, *probed.eval, check=0
            )
            name = NAME.format(f"{modality}_{init}", wise_ft)
            assert name in done.stdout
            table = pd.read_csv(Path(probed.eval[1]) / f"{name}.csv")
            assert table["dataset"].tolist() == list(datasets.TARGETS)
            for row in table.itertuples():
                run = runs[row.dataset, modality]
                assert row.mean == pytest.approx(100 * run.accuracy("wiseft" if wise_ft else "trained"), abs=1e-4)
                assert row.zeroshot == pytest.approx(100 * run.accuracy("zeroshot"), abs=1e-4)
                assert row.std == 0
            assert table["mean"].nunique() > 3, "one dataset could stand for another"
    names = [NAME.format("cross_modal_text", False), NAME.format("uni_modal_random", False)]
    done = script("average.py", "--name", *names, *probed.eval, *probed.avg, check=0)
    for name, modality in zip(names, ("cross_modal", "uni_modal"), strict=True):
        summary = pd.read_csv(Path(probed.avg[1]) / name / "summary.csv")
        mean = sum(runs[dataset, modality].accuracy("trained") for dataset in datasets.TARGETS) / 11
        assert summary["mean"].tolist() == [pytest.approx(100 * mean, abs=1e-3)]
        assert f"{100 * mean:.2f}" in done.stdout


def test_a_shard_reads_its_own_datasets_alone(extracted, tmp_path):
    """Which it has a part of follows from the published counts."""
    (tmp_path / "dtd").symlink_to(Path(extracted.data[1]) / "dtd")
    words = ["--dataset", "dtd", "eurosat", "--train-shot", "1", "16", "--seed", "1", "--clip-encoder", "demo-RN"]
    words += ["--data_dir", tmp_path, *extracted.indices, *extracted.feature]
    done = run_fork("features.py", *words, "--shard", "1/2", folder=tmp_path, check=0)
    assert done.stdout.startswith("shard 1/2 of demo-RN: 4 of 8 units, ")
    assert ", 0 of them to encode" in done.stdout
    other = run_fork("features.py", *words, "--shard", "2/2", folder=tmp_path, check=1)
    assert "eurosat" in other.stderr


def test_datasets_are_handed_out_to_gpus(probed):
    sweep = probed.probe
    assert sorted(call.dataset for call in sweep.calls) == sorted([*datasets.TARGETS] * 2)
    assert {call.gpu for call in sweep.calls} == {"0", "1"}
    assert len({(call.dataset, call.gpu) for call in sweep.calls}) == 11
    assert all(f"== {call.dataset} on GPU {call.gpu}\n" in sweep.stdout for call in sweep.calls)


def executable(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_free_gpu_takes_the_next_dataset(tmp_path):
    """The first dataset ends when all others have started: the other GPU must run them."""
    python = executable(
        tmp_path / "slow",
        '#!/bin/bash\nwhile [[ "$*" = *dtd* ]] && [ $(wc -l < "$CALLS") -lt 4 ]; do sleep 0.01; done\n',
    )
    names = {"DATASETS": "dtd eurosat food101 ucf101", "GPUS": "2 5", "IMAGE_LAYERS": "0"}
    calls = Sweep("features.sh", folder=tmp_path, runs=python, **names).wait(check=0).calls
    gpus = {call.dataset: call.gpu for call in calls}
    (other,) = {gpus[dataset] for dataset in ("eurosat", "food101", "ucf101")}
    assert {gpus["dtd"], other} == {"2", "5"}


def test_a_dataset_that_fails_stops_no_other_one(extracted, tmp_path):
    """The failed dataset is named at the end, and the exit status is 1."""
    words = [*extracted.indices, *extracted.feature, "--result_dir", tmp_path / "runs", *STEPS]
    done = Sweep("linear_probe.sh", *words, folder=tmp_path, DATASETS="no_such eurosat", SHOTS="1").wait(check=1)
    assert "no dataset is called 'no_such'" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("failed: no_such (1 of 2 datasets")
    assert set(runs_that_were_tested(tmp_path / "runs")) == {("eurosat", "cross_modal"), ("eurosat", "uni_modal")}
    assert {call.gpu for call in done.calls} == {"none"}


def test_arguments_go_through_from_any_folder(tmp_path):
    """They keep spaces, and follow the settings, so that they override these. A dataset may be a path."""
    words = ["--feature_dir", "a b/*", "--device", "cuda:1"]
    settings = {"DATASETS": "dtd my/photos", "SHOTS": "1 2", "SEEDS": "3", "ENCODER": "ViT-B/16"}
    done = Sweep("linear_probe.sh", *words, folder=tmp_path, runs="true", cwd=tmp_path, **settings).wait(check=0)
    inputs = (
        "--train-shot 1 2 --seed 3 --clip-encoder ViT-B/16 --text-augmentation hand_crafted"
        " --image-augmentation flip --image-views 1 --method linear"
    ).split()
    assert [call.words for call in done.calls] == [
        ["train.py", "--dataset", dataset, *inputs, *row, *words]
        for dataset in ("dtd", "my/photos")
        for row in (CROSS, UNI)
    ]


def test_datasets_are_not_an_argument(tmp_path):
    for words in (["--dataset", "dtd"], ["--device", "cpu", "--dataset=dtd"]):
        done = Sweep("adapter.sh", *words, folder=tmp_path, runs="true").wait(check=2)
        assert "DATASETS=" in done.stderr
        assert done.calls == []


def test_a_shard_of_a_stage_has_all_datasets_in_one_command(tmp_path):
    settings = {"DATASETS": "dtd my/photos", "SHOTS": "1", "SHARD": "2/3"}
    done = Sweep("partial_finetuning.sh", folder=tmp_path, runs="true", STAGE="features", **settings).wait(check=0)
    assert [call.words for call in done.calls] == [
        (
            "features.py --dataset dtd my/photos --train-shot 1 --seed 1 --clip-encoder demo-RN --text-augmentation"
            " hand_crafted --image-augmentation flip --image-views 1 --image-layer-idx 1 --shard 2/3"
        ).split()
    ]
    done = Sweep("adapter.sh", "--device", "cpu", folder=tmp_path, runs="true", **settings).wait(check=0)
    assert [" ".join(call.words[-4:]) for call in done.calls[1:]] == ["--shard 2/3 --device cpu"] * 2
    failed = Sweep("adapter.sh", folder=tmp_path, runs="false", **settings).wait(check=1)
    assert failed.stderr.endswith("failed: shard 2/3 (see the errors above)\n")


@pytest.mark.parametrize(
    ("script", "settings", "message"),
    [
        ("prompting.sh", {"SHARD": "1/2"}, "SHARD needs STAGE=features"),
        ("adapter.sh", {"SHARD": "1/2", "GPUS": "0 1"}, "GPUS and SHARD exclude each other"),
        ("features.sh", {"STAGE": "train"}, "features.sh has no stage 'train'"),
    ],
)
def test_shards_and_stages_that_are_refused(tmp_path, script, settings, message):
    done = Sweep(script, folder=tmp_path, runs="true", **settings).wait(check=2)
    assert message in done.stderr
    assert done.calls == []


def test_without_settings_it_is_the_papers_sweep(tmp_path):
    done = Sweep("features.sh", folder=tmp_path, runs="true", ENCODER="", SEEDS="").wait(check=0)
    assert [call.dataset for call in done.calls] == list(datasets.TARGETS)
    expected = "--train-shot 1 2 4 8 16 --seed 1 2 3 --clip-encoder RN50 --text-augmentation hand_crafted"
    expected += " --image-augmentation flip --image-views 1 --image-layer-idx 0 1"
    assert {" ".join(call.words[3:]) for call in done.calls} == {expected}


@pytest.mark.parametrize("mode", ["partial", "adapter"])
def test_partial_fine_tuning_and_adapters(extracted, tmp_path, script, mode):
    """Two datasets through features.sh, the sweep and eval.py; cells against records."""
    two = {"DATASETS": "dtd fgvc_aircraft", "SHOTS": "1", "runs": "true", "folder": tmp_path}
    inputs, steps = [*extracted.indices, *extracted.feature], ["--max-iter", "3"]
    if mode == "partial":
        run_calls(Sweep("features.sh", *extracted.data, *inputs, **two).wait(check=0).calls, tmp_path)
    results = ["--result_dir", str(tmp_path / "runs")]
    name = {"partial": "partial_finetuning.sh", "adapter": "adapter.sh"}[mode]
    two["folder"] = tmp_path / "sweep"
    calls = Sweep(name, *inputs, *results, *steps, **two).wait(check=0).calls
    assert len(calls) == 4
    run_calls(calls, tmp_path)
    runs = runs_that_were_tested(tmp_path / "runs")
    words = ["--datasets", "dtd", "fgvc_aircraft", "--clip-encoder", "demo-RN", "--train-shot", "1", "--seed", "1"]
    for method in (CROSS, UNI):
        done = run_fork(
            "eval.py", "--mode", mode, *method, *words, *steps, *results, "--eval_dir", tmp_path / "tables",
            folder=tmp_path, check=0,
        )  # fmt: skip
        table = pd.read_csv(done.stdout.splitlines()[-1], index_col="dataset")
        assert len(table) == 2
        for dataset, mean in table["mean"].items():
            run = runs[dataset, method[1]]
            assert mean == pytest.approx(100 * run.accuracy("trained"), abs=1e-4)
            head, layer, logit = {"partial": ("linear", 1, 4.0), "adapter": ("adapter", 0, 4.60517)}[mode]
            assert (run.cell.head, run.cell.image_layer, run.cell.log_logit_scale) == (head, layer, logit)


def test_ctrl_c_stops_everything(extracted, tmp_path):
    """Ctrl-C reaches the sweep and through it every training process; no other dataset starts."""
    words = [*extracted.indices, *extracted.feature, "--result_dir", tmp_path / "runs", "--max-iter", "2000000"]
    sweep = Sweep("linear_probe.sh", *words, folder=tmp_path, GPUS="0 1", SHOTS="1")
    while sweep.process.poll() is None and sweep.said[0].read_text().count("to train on cpu") < 2:
        time.sleep(0.02)
    assert len(sweep.calls) == 2
    os.killpg(sweep.process.pid, signal.SIGINT)
    began = time.monotonic()
    done = sweep.wait(check=130, timeout=60)
    assert time.monotonic() - began < 10
    assert done.stderr.count("interrupted: completed work is saved") == 2, done.stderr
    assert len(done.calls) == 2
    for call in done.calls:
        with pytest.raises(ProcessLookupError):
            os.kill(call.pid, 0)


def test_each_sweep_is_short():
    for name in ("features.sh", "linear_probe.sh", "partial_finetuning.sh", "adapter.sh", "prompting.sh"):
        assert len((ROOT / name).read_text().splitlines()) < 40, name
        assert os.access(ROOT / name, os.X_OK)
