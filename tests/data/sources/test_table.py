# SPDX-License-Identifier: Apache-2.0
"""Labels out of a list beside the images, --labels=FILE:COLUMN. With data/sources/columns.py."""

import json

import pytest

from tests.data.picture_sets import class_folders, read_set

# dog/0, dog/1, dog/2, ape/0, ape/1, cat/0 in the order of names: ape/0, ape/1, cat/0, dog/0, dog/1, dog/2
FILES = ["ape/0.png", "ape/1.png", "cat/0.png", "dog/0.png", "dog/1.png", "dog/2.png"]
WORDS = ["x", "y", "x", "y", "z", "z"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("set")
    class_folders(path)
    return path


def labels(accepted, folder, tmp_path, file: str, column: str, *flags: str):
    out = accepted(f"--source={folder}", f"--dest={tmp_path}/a.zip", f"--labels={tmp_path}/{file}:{column}", *flags)
    info = read_set(tmp_path / "a.zip")[0]
    return [v for _, v in info["labels"]], info.get("class_names"), out


def test_every_kind_of_list(tmp_path, accepted, folder):
    rows = list(zip(FILES, WORDS, range(6)))
    (tmp_path / "a.csv").write_text("file,kind,age\n" + "".join(f"data/{f},{w},{a}.5\n" for f, w, a in reversed(rows)))
    (tmp_path / "b.csv").write_text("\ufeffid; kind\n" + "".join(f"{f};{w}\n" for f, w, _ in rows), encoding="utf-8")
    (tmp_path / "c.tsv").write_text("kind\tpath\n" + "".join(f"{w}\t./{f}\n" for f, w, _ in rows))
    (tmp_path / "d.json").write_text(json.dumps([{"file": f, "kind": w} for f, w, _ in rows]))
    (tmp_path / "e.json").write_text(json.dumps({f: {"kind": w, "age": a} for f, w, a in rows}))
    (tmp_path / "f.jsonl").write_text("\n".join(json.dumps({"file_name": f, "kind": w}) for f, w, _ in rows) + "\n\n")
    for file in ("a.csv", "b.csv", "c.tsv", "d.json", "e.json", "f.jsonl"):
        found, names, _ = labels(accepted, folder, tmp_path, file, "kind")
        assert found == [0, 1, 0, 1, 2, 2] and names == ["x", "y", "z"], file
    assert labels(accepted, folder, tmp_path, "a.csv", "age")[0] == [[i + 0.5] for i in range(6)]
    assert labels(accepted, folder, tmp_path, "e.json", "age")[0] == list(range(6))
    assert labels(accepted, folder, tmp_path, "e.json", "age", "--label-kind=value")[0] == [[i] for i in range(6)]
    (tmp_path / "g.json").write_text(json.dumps(dict(zip(FILES, range(6)))))
    assert labels(accepted, folder, tmp_path, "g.json", "label")[0] == list(range(6))


def test_names_and_rows_that_do_not_fit(tmp_path, accepted, refused, folder):
    (tmp_path / "a.csv").write_text("f,k\n" + "".join(f"{f},{i}\n" for i, f in enumerate(FILES[:4])) + "z.png,3\n")
    err = refused(f"--source={folder}", f"--dest={tmp_path}/a.zip", f"--labels={tmp_path}/a.csv:k")
    assert "2 of 6 images" in err and "dog/1.png" in err
    found, _, out = labels(accepted, folder, tmp_path, "a.csv", "k", "--drop-unlabelled")
    assert found == [0, 1, 2, 3] and "named by its column f; 1 of 5 rows name no image" in out
    # A file name alone is clear only where one image has it.
    (tmp_path / "b.csv").write_text("f,k\n2,7\n0.png,1\n")
    found, _, out = labels(accepted, folder, tmp_path, "b.csv", "k", "--drop-unlabelled")
    assert found == [7] and "1 of 2 rows" in out
    # Of rows that are called alike the one of this folder counts, and names go before numbers of rows.
    other = f"other/{FILES[0]}"
    (tmp_path / "d.csv").write_text(f"f,k\n{folder.name}/{FILES[0]},1\n{other},2\n")
    assert labels(accepted, folder, tmp_path, "d.csv", "k", "--drop-unlabelled")[0] == [1]
    for i in range(6):
        (tmp_path / f"flat/{i}.png").parent.mkdir(exist_ok=True)
        (tmp_path / f"flat/{i}.png").write_bytes((folder / FILES[i]).read_bytes())
    (tmp_path / "e.csv").write_text(",f,k,v\n" + "".join(f"{i},{5 - i}.png,{i},\"{i},5\"\n" for i in range(6)))
    assert labels(accepted, tmp_path / "flat", tmp_path, "e.csv", "k")[0] == [5, 4, 3, 2, 1, 0]
    # Numbers stay numbers where one is missing; decimal commas are those of lists with semicolons.
    (tmp_path / "f.csv").write_text("f;k;v\n" + "".join(f"{f};{w};{i},5\n" for i, (f, w) in enumerate(
        zip(FILES, ("0", "1", "NaN", "3", "4", "5")))))
    assert labels(accepted, folder, tmp_path, "f.csv", "k", "--drop-unlabelled")[0] == [0, 1, 3, 4, 5]
    assert labels(accepted, folder, tmp_path, "f.csv", "v")[0] == [[i + 0.5] for i in range(6)]
    # Words that Python would read as numbers are words.
    (tmp_path / "c.csv").write_text("f,k\n" + "".join(f"{f},{w}\n" for f, w in zip(FILES, ("1_2", "nan", "inf") * 2)))
    assert labels(accepted, folder, tmp_path, "c.csv", "k")[:2] == ([0, 2, 1, 0, 2, 1], ["1_2", "inf", "nan"])


@pytest.mark.parametrize("name, text, said", [
    ("a.csv", "f,k\n", "list is empty"), ("a.csv", "f,g\nape/0.png,1\n", "no such column; it has f, g"),
    ("a.csv", "f,k\nq.png,1\n", "no column holds the names of the images, such as ape/0.png"),
    ("a.csv", "f,k\nape/0.png,1\nape/0.png,2\n", "says two things of ape/0.png"),
    ("a.csv", "f,g,k\nape/0.png,ape/1.png,1\n", "the columns f, g both name images"),
    ("a.csv", "f,k,k\nape/0.png,1,2\n", "has the column k twice"),
    ("a.csv", "f,k\nape/0.png,1,2\n", "row 1 of"), ("a.csv", b"f,k\n\xff,1\n", "is not UTF-8 text"),
    ("a.csv", 'f,k\n"ape/0.png,1\n', "not readable as CSV"), ("a.json", "[1]", "is not a list of objects"),
    ("a.json", "[", "is not valid JSON"), ("a.jsonl", '{"f": "ape/0.png", "k": 1}\n[]', "line 2 of"),
    ("a.xlsx", "x", "give a list ending in"), ("a.json", json.dumps([{"f": f, "k": w} for f, w in zip(
        FILES, ("a", 1, 2, 3, 4, 5))]), "both words (a) and numbers")])
def test_a_bad_list_is_one_line(tmp_path, refused, folder, name, text, said):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    err = refused(f"--source={folder}", f"--dest={tmp_path}/a.zip", f"--labels={tmp_path}/{name}:k")
    assert said in err and not (tmp_path / "a.zip").exists()


def test_the_flag_is_refused_elsewhere(tmp_path, refused, folder):
    err = refused("--source=sklearn:digits", f"--dest={tmp_path}/a.zip", "--labels=a.csv:k")
    assert "is for a folder or zip of images" in err
    err = refused(f"--source={folder}", f"--dest={tmp_path}/a.zip", "--labels=folder")
    assert "did you mean folders?" in err and "FILE:COLUMN" in err
    err = refused(f"--source={folder}", f"--dest={tmp_path}/a.zip", "--label-column=k")
    assert "--label-column belongs to WebDataset" in err
