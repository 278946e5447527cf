# SPDX-License-Identifier: Apache-2.0
"""Which figures of result lines are shown to people, and how."""

from gantransfer.metrics import summary
from gantransfer.metrics.names import GROUPS


def test_only_figures_that_rate_a_snapshot_and_are_of_all_classes():
    report = dict(metric="report_d", results={f"report_d_{k}": 1.0 for k in (
        "class_fd", "class_fd_many", "class_fd_few", "fd", "fd_pix64", "fd_pix64_few", "accuracy")})
    assert list(summary.figures(report)) == [f"report_d_{k}" for k in ("class_fd", "fd", "fd_pix64", "accuracy")]
    shots = dict(metric="fid_shots", results={f"fid_{g}": 1.0 for g in GROUPS})
    assert summary.figures(shots) == shots["results"], "there is no value for all classes"
    mind = dict(metric="mind2mind", results={"latent_fd": 2.0, "latent_fd_floor": 0.1, "class_mean_gap": 3.0,
                                             "class_mean_gap_few": 4.0, "class_mean_gap_12": 5.0, "seconds_train": 6.0})
    assert list(summary.figures(mind)) == ["latent_fd", "class_mean_gap"]
    alone = dict(metric="density_ratio", results={"mean_fake": 1.0})
    assert summary.figures(alone) == {"mean_fake": 1.0}, "where nothing rates, all are shown"


def test_a_line_has_three_digits_and_stays_in_its_columns():
    def line(fid, kid, fd):
        return summary.line([dict(metric="fid50k_full", results={"fid50k_full": fid}),
                           dict(metric="kid50k_full", results={"kid50k_full": kid}),
                           dict(metric="report_d", results={"report_d_class_fd": fd})])

    a, b = line(12.345678, 0.00123456, 9.0), line(1234.5, None, 123.456)
    assert a == "fid50k_full 12.3     kid50k_full 0.00123  per-class FD 9"
    assert b == "fid50k_full 1,230    kid50k_full -        per-class FD 123"


def test_two_judges_are_told_apart():
    two = summary.line([dict(metric=f"report_j{j}", results={f"report_j{j}_accuracy": j / 3}) for j in (0, 1)])
    assert two == "report_j0 label accuracy 0        report_j1 label accuracy 0.333"
