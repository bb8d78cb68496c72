"""What the columns of a comparison's tables mean."""

from __future__ import annotations

COLUMNS = (
    ("last", "The last scored round: mean ± standard deviation of the sample over seeds."),
    ("best by validation", "The test score of the round with the best score on validation samples."),
    (
        "best on test",
        "The best test score of all rounds. It is chosen on the data that it reports, and so it is too good.",
    ),
    ("worst 10 %", "The mean of the worst tenth of the clients in the last round."),
    ("Jain", "Jain's index over clients: 1 if all have the same score, 1/n if one of n clients has everything."),
    ("difference", "The first method minus the second, of the same clients under the same seeds."),
    (
        "over clients",
        "A bootstrap interval of the difference: clients are drawn anew within each seed. It holds for these seeds.",
    ),
    ("over seeds", "Student's interval of the mean of the seeds' differences: what other seeds would give."),
    (
        "pairs, better, equal, worse",
        "Clients under each seed; where all seeds have the same clients with the same samples, clients, whose "
        "differences are averaged over seeds.",
    ),
    (
        "p, p (Holm)",
        "Wilcoxon's signed-rank test over these pairs, two-sided; with Holm's correction for all differences of this "
        "report.",
    ),
    ("effect", "The matched-pairs rank-biserial correlation, from -1 to 1."),
)
