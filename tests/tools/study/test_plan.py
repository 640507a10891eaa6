"""From a study's file to the commands that are run, each once."""

from pathlib import Path

import pytest

from tools.study.plan import Plan, choose, make_plan, read_study

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
STUDY = """
seeds: [3, 4]
result: test
baselines: [plain]
words: {common: "--seed {seed} --to {folder}", policy: "{train}"}
jobs:
  data: make {common}
  train: fit {common} --data {data}
  test: {run: "test --model {policy}/model {common}", folder: "{policy}/test"}
arms:
  untrained: {words: {policy: "{data}"}}
  plain:
  other: {add: {train: --beta 0}}
  same: {add: {train: --beta 0}}
  far: {add: {data: --size 2}}
"""


def plan_of(tmp_path: Path, text: str = STUDY, **options) -> Plan:
    (tmp_path / "study.yaml").write_text(text)
    return make_plan(
        choose(read_study(tmp_path / "study.yaml"), options.get("seeds"), options.get("arms")), Path("out")
    )


def test_equal_commands_are_one_job_named_after_the_arm_that_changes_it(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=[3])
    folders = {name: list(job.arms) for name, job in plan.jobs.items()}
    assert folders == {
        "seed_3/data": ["untrained", "plain", "other", "same"],
        "seed_3/data/test": ["untrained"],
        "seed_3/train": ["plain"],
        "seed_3/train/test": ["plain"],
        "seed_3/train_other": ["other", "same"],
        "seed_3/train_other/test": ["other", "same"],
        "seed_3/data_far": ["far"],
        "seed_3/train_far": ["far"],
        "seed_3/train_far/test": ["far"],
    }
    assert plan.folders["same", 3]["test"] == "seed_3/train_other/test"


def test_commands_have_their_seed_and_folders_and_wait_for_what_they_name(tmp_path: Path) -> None:
    job = plan_of(tmp_path).jobs["seed_4/train_other"]
    expected = "fit --seed 4 --to out/seed_4/train_other --data out/seed_4/data --beta 0"
    assert " ".join(job.words) == expected and job.needs == ("seed_4/data",)


def test_an_arm_does_not_wait_for_a_job_that_it_replaces(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, arms=["untrained"])
    assert plan.jobs["seed_3/data/test"].needs == ("seed_3/data",)
    assert not any(job.name == "train" for job in plan.jobs.values())


def test_what_a_job_needs_stands_before_it(tmp_path: Path) -> None:
    places = {folder: i for i, folder in enumerate(plan_of(tmp_path).jobs)}
    assert all(places[need] < places[job.folder] for job in plan_of(tmp_path).jobs.values() for need in job.needs)


def test_a_folder_with_spaces_stays_one_word(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    plan = make_plan(read_study(tmp_path / "study.yaml"), Path("my runs"))
    assert "my runs/seed_3/data" in plan.jobs["seed_3/train"].words


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("--data {data}", "--data {dada}", r"train names \{dada\}, which is none of: seed, folder, output, common"),
        ("make {common}", "make {test}", "wait for each other: test → data → test"),
        ('policy: "{train}"', 'policy: "{common}", common: "{policy}"', "the key 'common' is there twice"),
        ("result: test", "result: tests", "result names 'tests', which is no job of the study: data, train, test"),
        ("[plain]", "[plane]", "baselines names 'plane', which is no arm"),
        ("far: {add: {data", "far: {add: {date", "arms.far.add names 'date', which is no job"),
        ('words: {policy: "{data}"}', "word: {policy: x}", "unknown key arms.untrained.word. Expected add, words"),
        ("result: test", "results: test", "unknown key results"),
        ("[3, 4]", "[3, 3]", "different whole numbers"),
        ("--beta 0", "--beta '0", "cannot be split into words"),
        ("  data: make", "  seed: make", "'seed' has a meaning of its own"),
        ("{policy}/test", "here", "Two jobs would work in out/seed_3/here"),
        ("make {common}", "3", "jobs.data is 3"),
    ],
)
def test_a_study_that_cannot_be_run_says_why(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert before in STUDY
    text = STUDY.replace(before, after)
    with pytest.raises(ValueError, match=message):
        plan_of(tmp_path, text)


def test_words_that_name_each_other_are_refused(tmp_path: Path) -> None:
    text = STUDY.replace('common: "', 'common: "{policy} ').replace('"{train}"', '"{common}"')
    with pytest.raises(ValueError, match="Words of arm plain name each other: (policy|common) → "):
        plan_of(tmp_path, text, arms=["plain"])


def test_an_arm_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no arm none. Its arms: untrained, plain"):
        plan_of(tmp_path, arms=["plain", "none"])


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "configs/study").glob("*.yaml")])
def test_shipped_studies_name_files_that_are_there(name: str) -> None:
    plan = make_plan(read_study(ROOT / f"configs/study/{name}.yaml"), Path("out"))
    named = {word for job in plan.jobs.values() for word in job.words if word.startswith("configs/")}
    assert named and all((ROOT / word).is_file() for word in named)


IN_EACH_OTHER = """
seeds: [0]
folder: .
result: test
jobs:
  data: {run: "make {folder}", folder: "outer/data"}
  train: {run: "fit {folder} {data}", folder: "OUTER"}
  test: {run: "test {folder} {train}", folder: "INNER"}
arms: {plain: }
"""


@pytest.mark.parametrize(
    ("outer", "inner", "message"),
    [
        (
            "train",
            ".",
            "test .* would work in out, where it could remove what others have written. Give test a `folder`",
        ),
        ("train", "../elsewhere", "would work in out/../elsewhere, where it could remove"),
        ("train", "/elsewhere", "would work in /elsewhere, where it could remove"),
        ("train", "jobs", "and not in out/jobs"),
        ("train", "outer/data", "Two jobs would work in out/outer/data"),
        ("outer", "test", "data would work in out/outer/data, within the folder of train, which it does not wait for"),
    ],
)
def test_a_job_works_where_it_can_remove_nothing_of_others(
    tmp_path: Path, outer: str, inner: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(tmp_path, IN_EACH_OTHER.replace("OUTER", outer).replace("INNER", inner))


def test_a_job_may_work_within_the_folder_of_one_that_it_waits_for(tmp_path: Path) -> None:
    text = IN_EACH_OTHER.replace("OUTER", "train").replace("INNER", "outer/data/test")
    assert list(plan_of(tmp_path, text).jobs) == ["outer/data", "train", "outer/data/test"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("folder: .", "folder: 3", "study.yaml: folder is 3. Expected text"),
        ("result: test", "result: test\nthreads: 0", "study.yaml: threads is 0. Expected a whole number, 1 or more"),
        ('"make {folder}"', '""', "study.yaml: jobs.data.run is ''. Expected text"),
        ('"OUTER"', "7", "study.yaml: jobs.train.folder is 7. Expected text"),
        ('"OUTER"', "train, threads: two", "study.yaml: jobs.train.threads is 'two'. Expected a whole number"),
    ],
)
def test_values_of_another_kind_are_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(tmp_path, IN_EACH_OTHER.replace(before, after))
