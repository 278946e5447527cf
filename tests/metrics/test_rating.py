# SPDX-License-Identifier: Apache-2.0
"""RUN:best names the snapshot with the best value, RUN and RUN:latest the newest. With metrics/directions.py."""

import json
import re

import pytest

from dnnlib.util import UserError
from gantransfer.commands import flags
from gantransfer.metrics import rating


def test_best(tmp_path):
    for k, (fid, score) in enumerate([(30, 2.0), (10, 1.5), (20, 3.0)]):
        name = f"network-snapshot-{k:06d}.pkl"
        (tmp_path / name).touch()
        for metric, results in (("fid50k_full", {"fid50k_full": fid}),
                                ("is50k", {"is50k_mean": score, "is50k_std": 0})):
            with open(tmp_path / f"metric-{metric}.jsonl", "a") as f:
                f.write(json.dumps(dict(metric=metric, results=results, snapshot_pkl=name)) + "\n")
    with open(tmp_path / "metric-fid50k_full.jsonl", "a") as f:
        gone = dict(metric="fid50k_full", results={"fid50k_full": 1}, snapshot_pkl="deleted.pkl")
        f.write(json.dumps(gone) + '\n{"me')
    assert rating.resolve(f"{tmp_path}:best").endswith("000001.pkl")
    assert rating.resolve(f"{tmp_path}:best:is50k").endswith("000002.pkl")
    assert rating.resolve(f"{tmp_path}:best:is50k_mean").endswith("000002.pkl")
    for same in (None, "latest", "snap.pkl", str(tmp_path), "https://host/a:best"):
        assert rating.resolve(same) == same
    with pytest.raises(UserError, match="kid50k"):
        rating.resolve(f"{tmp_path}:best:kid50k")
    with pytest.raises(UserError, match="not a run folder"):
        rating.resolve(f"{tmp_path}/none:best")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no measured snapshot"):
        rating.resolve(f"{tmp_path}/empty:best")


def test_values_that_are_not_numbers_rate_nothing(tmp_path):
    for k, value in enumerate([5, float("nan"), 4, float("inf"), 6]):
        with open(tmp_path / "metric-fid50k_full.jsonl", "a") as f:
            f.write(json.dumps(dict(metric="fid50k_full", results={"fid50k_full": value}, kimg=k,
                                    snapshot_pkl=f"network-snapshot-{k:06d}.pkl")) + "\n")
    count, top = rating.since_best(tmp_path, None)
    assert (count, top.value, top.kimg) == (1, 4, 2)
    assert rating.since_best(tmp_path, "is50k") == (0, None)


def test_lines_of_other_programs_have_their_length_in_the_snapshots_name(tmp_path):
    for snapshot, kimg in (("network-snapshot-000200.pkl", None), ("network-snapshot-000002_032.pkl", None),
                           ("network-snapshot-000003.pkl", 3.5), ("other.pkl", None)):
        with open(tmp_path / "metric-fid50k_full.jsonl", "a") as f:
            f.write(json.dumps(dict(metric="fid50k_full", results={"fid50k_full": 1.0}, snapshot_pkl=snapshot,
                                    **({} if kimg is None else {"kimg": kimg}))) + "\n")
    assert [(r.snapshot[:-4], r.kimg) for r in rating.ratings(tmp_path)] == [
        ("other", 0), ("network-snapshot-000002_032", 2.032), ("network-snapshot-000003", 3.5),
        ("network-snapshot-000200", 200)]


def write(run_dir, metric, values, key=None):
    """metric-<metric>.jsonl, and the snapshots that it names."""
    for k, value in enumerate(values):
        snapshot = f"network-snapshot-{k:06d}.pkl"
        (run_dir / snapshot).touch()
        with open(run_dir / f"metric-{metric}.jsonl", "a") as f:
            f.write(json.dumps(dict(metric=metric, results={key or metric: value}, kimg=k,
                                    snapshot_pkl=snapshot)) + "\n")


def test_only_values_measured_in_the_same_way_are_compared(tmp_path):
    """calc_metrics.py adds lines to a run: against other reals, of another seed, of some classes."""
    ways = [dict(reference={"sha256": "a"}), dict(reference={"sha256": "b"}), dict(detector={"sha256": "c"}),
            dict(seed=1), dict(labels="data"), dict(num_gen=7), dict(num_real=7),
            dict(per_class={"ids": [3]}), dict(reference="odd")]
    usual = dict(metric="fid5k_full", seed=0, labels="uniform", num_gen=5000, num_real=60, reference={"sha256": "r"})
    lines = [dict(usual, kimg=k, results={"fid5k_full": v}) for k, v in enumerate([9, 5, 6, 7])]
    lines += [{**usual, "kimg": k, "results": {"fid5k_full": k / 10}, **way} for k in (0, 3) for way in ways]
    with open(tmp_path / "metric-fid5k_full.jsonl", "w") as f:
        for line in lines:
            name = f"network-snapshot-{line['kimg']:06d}.pkl"
            (tmp_path / name).touch()
            f.write(json.dumps(dict(line, snapshot_pkl=name)) + "\n")
    count, top = rating.since_best(tmp_path, None)
    assert (count, top.value, top.kimg) == (2, 5, 1)
    assert rating.resolve(f"{tmp_path}:best").endswith("000001.pkl")
    rating.keep_best(tmp_path, None)
    assert [p.name for p in rating.find_snapshots(tmp_path)] == [f"network-snapshot-00000{k}.pkl" for k in (1, 3)]


def test_of_several_ways_the_newest_counts(tmp_path):
    with open(tmp_path / "metric-fid5k_full.jsonl", "w") as f:
        for k, value, seed in ((0, 1, 0), (1, 2, 0), (2, 4, 1), (3, 3, 1)):
            f.write(json.dumps(dict(metric="fid5k_full", results={"fid5k_full": value}, kimg=k, seed=seed,
                                    snapshot_pkl=f"network-snapshot-00000{k}.pkl")) + "\n")
    count, top = rating.since_best(tmp_path, None)
    assert (count, top.value) == (0, 3)


def test_recorded_choice_comes_first(tmp_path):
    write(tmp_path, "fid5k_full", [0, 1])
    write(tmp_path, "kid5k_full", [0, -1])
    assert rating.resolve(f"{tmp_path}:best").endswith("000000.pkl")
    (tmp_path / "training_options.json").write_text(json.dumps({"best": "kid5k_full"}))
    assert rating.resolve(f"{tmp_path}:best").endswith("000001.pkl")
    assert rating.resolve(f"{tmp_path}:best:fid5k_full").endswith("000000.pkl")
    # Without --best training goes by the first metric that it was given: --keep=best must keep what RUN:best means.
    for metrics, chosen in ((["kid5k_full", "fid5k_full"], "kid5k_full"), (["fid5k_full"], "fid5k_full"),
                            ([], "fid5k_full")):
        (tmp_path / "training_options.json").write_text(json.dumps({"best": None, "metrics": metrics}))
        assert rating.best(rating.ratings(tmp_path), tmp_path).metric == chosen
    (tmp_path / "training_options.json").write_text(json.dumps({"best": "nothing measured"}))
    assert rating.resolve(f"{tmp_path}:best").endswith("000000.pkl")


DECLARED = {  # metric: {value: direction}, written down independently of the code
    "fid50k_full": {"fid50k_full": "lower"}, "kid50k": {"kid50k": "lower"}, "fid5k_clean": {"fid5k_clean": "lower"},
    "fid50k_many": {"fid50k_many": "lower"}, "fid5k_shots": {"fid5k_few": "lower"},
    "fid_shots": {"fid_many": "lower", "fid_few": "lower"}, "kid_shots": {"kid_medium": "lower"},
    "fid_class": {"fid_class": "lower", "fid_class_std": "unrated", "fid_class_max": "lower"},
    "kid5k_class": {"kid5k_class": "lower", "kid5k_class_min": "lower"},
    "is50k": {"is50k_mean": "higher", "is50k_std": "unrated"}, "is5k_biggan": {"is5k_biggan_mean": "higher"},
    "pr50k3_full": {"pr50k3_full_precision": "higher", "pr50k3_full_recall": "higher"},
    "pr_digits32_1k_k3": {"pr_digits32_1k_k3_recall": "higher"},
    "dc10k5": {"dc10k5_density": "higher", "dc10k5_coverage": "higher"},
    "pr_class": {"pr_class_precision": "higher"}, "dc_class": {"dc_class_coverage": "higher"},
    "dc_digits32_1k_k5": {"dc_digits32_1k_k5_density": "higher"},
    "pr_digits32_1k_k5_class": {"pr_digits32_1k_k5_class_recall": "higher"},
    "diversity_class": {"diversity_class": "higher"},
    "diversity_digits32_1k_class": {"diversity_digits32_1k_class": "higher"},
    "ppl2_wend": {"ppl2_wend": "lower"}, "ppl_zfull": {"ppl_zfull": "lower"}, "ppl_class": {"ppl_class": "lower"},
    "fid_clean": {"fid50k_clean": "lower"}, "cmmd": {"cmmd": "lower"},
    "kmmd": {"kmmd": "lower"}, "kmmd_unbiased": {"kmmd_unbiased": "lower", "kmmd_unbiased_error": "unrated"},
    "fid_inf": {"fid_inf": "lower"}, "lpips_diversity": {"lpips_diversity": "higher"},
    "memorisation": {"memorisation": "higher"}, "smoke_fd_pixel16_256": {"smoke_fd_pixel16_256": "lower"},
    "fd_a-b.c_2k": {"fd_a-b.c_2k": "lower"}, "kd_digits32_2k_class": {"kd_digits32_2k_class_std": "unrated"},
    "report_digits32": {"report_digits32_class_fd": "lower", "report_digits32_class_fd_few": "lower",
                        "report_digits32_fd_many": "lower", "report_digits32_fd_pix64": "lower",
                        "report_digits32_accuracy_few": "higher", "report_digits32_diversity": "higher",
                        "report_digits32_nearest_few": "higher"},
    "sfid_pix64_2k": {"sfid_pix64_2k": "lower", "sfid_pix64_2k_std": "unrated"},
    "label_score_angle_2k": {"label_score_angle_2k": "lower", "label_score_angle_2k_std": "unrated"},
    "alae": {"latent_error": "lower", "psnr": "higher"},
    "encoder": {"latent_error": "lower", "psnr": "higher", "feature_distance": "lower", "accepted": "higher"},
    "ccgan": {"code_error": "lower"},
    "cgan_kd": {"accuracy": "higher", "accuracy_few": "higher", "mae": "lower", "rmse": "lower"},
    "density_ratio": {"mean_fake": "unrated", "dead": "unrated"},
    "mind2mind": {"floor_mse": "unrated", "latent_fd_floor": "unrated", "source_fd_class_gaussian": "unrated",
                  "latent_fd": "lower", "latent_recall": "higher", "memorisation": "higher",
                  "class_mean_gap_few": "lower", "source_fd": "lower", "seconds_train": "unrated"},
}


def test_direction_of_every_metric_and_value():
    for metric, values in DECLARED.items():
        for value, direction in values.items():
            assert rating.direction(metric, value) == direction, (metric, value)
    for metric, value in (("fid50k_full", "fid50k_full_new"), ("unheard", "unheard"), ("alae", "fid"), ("pr50k3", "pr"),
                          ("sfid_pix64_2k_c0", "x"), ("report_a.b", "report_aXb_fd")):
        assert rating.direction(metric, value) is None, (metric, value)


def test_every_family_and_method_declares():
    """`directions.check` compares these declarations with the values that are really computed, at each evaluation."""
    from gantransfer.method import Method
    from gantransfer.methods import METHODS
    from gantransfer.metrics import table

    for name, metric in table.METRICS.items():
        assert any(rating.rates(name, key) for key in metric.better) or name.startswith("report_"), name
    for pattern, _, _ in table.PATTERNS:
        assert any(re.fullmatch(pattern, name) for name in DECLARED), pattern
    for name, method in METHODS.items():
        assert bool(method.better) == (method.evaluate is not Method.evaluate), name


@pytest.mark.parametrize("metric, values, kept", [
    ("label_score_angle_2k", [3, 1, 2, 4], [1, 3]), ("diversity_class", [0.5, 0.9, 0.7, 0.6], [1, 3]),
    ("fid5k_full", [3, 1, 2, 4], [1, 3]), ("lpips_diversity", [0.1, 0.4, 0.2, 0.3], [1, 3]),
    ("somebody-elses", [3, 1, 2, 4], [0, 1, 2, 3])])
def test_keep_best_goes_by_the_declaration_and_spares_what_nothing_rates(metric, values, kept, tmp_path):
    write(tmp_path, metric, values)
    rating.keep_best(tmp_path, None)
    assert [int(p.stem[-6:]) for p in sorted(tmp_path.glob("*.pkl"))] == kept


def test_unrated_values_delete_nothing(tmp_path):
    write(tmp_path, "mind2mind", [3, 1, 2], "latent_fd_floor")
    rating.keep_best(tmp_path, None)
    assert len(list(tmp_path.glob("*.pkl"))) == 3 and rating.since_best(tmp_path, "mind2mind") == (0, None)
    for name in ("latent_fd_floor",):
        with pytest.raises(UserError, match="not declared"):
            rating.keep_best(tmp_path, name)
        with pytest.raises(UserError, match="not declared"):
            rating.since_best(tmp_path, name)
        with pytest.raises(UserError, match="not declared"):
            rating.resolve(f"{tmp_path}:best:{name}")
    with pytest.raises(UserError, match="no value that rates snapshots"):
        rating.resolve(f"{tmp_path}:best")
    write(tmp_path, "mind2mind", [5, 4, 6], "latent_fd")
    top = rating.since_best(tmp_path, "mind2mind")[1]
    assert top.snapshot.endswith("000001.pkl"), "not the floor, which comes first"
    assert len(list(tmp_path.glob("*.pkl"))) == 3


def test_a_best_snapshot_that_is_gone_leaves_the_best_that_is_there(tmp_path):
    write(tmp_path, "fid5k_full", [1, 2, 3, 4])
    (tmp_path / "network-snapshot-000000.pkl").unlink()
    rating.keep_best(tmp_path, None)
    assert [p.stem[-1] for p in sorted(tmp_path.glob("*.pkl"))] == ["1", "3"]


def test_newest_snapshot_of_a_run(tmp_path, capsys):
    for kimg in (2, 10):
        (tmp_path / f"network-snapshot-{kimg:06d}.pkl").write_bytes(b"")
    newest = str(tmp_path / "network-snapshot-000010.pkl")
    assert rating.resolve(f"{tmp_path}:latest") == flags.snapshot(f"{tmp_path}:latest") == newest
    assert flags.snapshot(str(tmp_path)) == newest and "000010.pkl" in capsys.readouterr().out
    assert rating.resolve(str(tmp_path)) == str(tmp_path)  # --resume=RUN continues it
    (tmp_path / "empty").mkdir()
    assert flags.snapshot(f"{tmp_path}/empty") == f"{tmp_path}/empty"  # a folder of images, a BigGAN
    for text, says in ((f"{tmp_path}/empty:latest", "no network-snapshot"), (f"{tmp_path}/none:latest", "not a run")):
        with pytest.raises(UserError, match=says):
            flags.snapshot(text)
