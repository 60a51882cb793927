import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.corpus.dotted import at_path, entries
from icl_embed.corpus.read import read_table
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched

SERVICE = {
    "metadata": {"name": "Parcels"},
    "shapes": {
        "Parcel": {"members": {"Weight": {"doc": "How heavy"}, "Colour": {"doc": "What colour"}}},
        "Text": {"type": "string"},
    },
}
API = {
    "title": "Shelves",
    "resources": {
        "shelf": {
            "methods": {"list": {"id": "shelf.list"}},
            "resources": {
                "book": {"methods": {"get": {"id": "shelf.book.get"}, "put": {"id": "shelf.book.put"}}}
            },
        },
        "note": {"methods": "none"},
    },
}


def read(document, **table):
    records, _ = read_table([Fetched("a.json", data=json.dumps(document).encode())], Table(**table))
    return [{key: value for key, value in record.items() if not key.startswith("_")} for record in records]


def test_records_in_maps_of_maps_know_what_is_around_them():
    fields = {"field": "key", "doc": "value.doc", "shape": "../../../key", "service": "$.metadata.name"}
    assert read(SERVICE, records="shapes.*.value.members?.*", fields=fields) == [
        {"field": "Weight", "doc": "How heavy", "shape": "Parcel", "service": "Parcels"},
        {"field": "Colour", "doc": "What colour", "shape": "Parcel", "service": "Parcels"},
    ]


def test_a_key_that_may_be_absent_is_marked():
    with pytest.raises(DataError, match="fails at 'members'; what is there: type"):
        read(SERVICE, records="shapes.*.value.members.*", fields={"field": "key"})
    assert read({"really?": [{"a": 1}]}, records="really?.*") == [{"a": 1}]  # a key may end so itself
    assert read({"a": 1}, records="b?.*") == []


def test_two_stars_find_records_at_any_depth():
    fields = {"id": "value.id", "title": "$.title"}
    found = read(API, records="resources.**.methods.*", fields=fields)
    assert [record["id"] for record in found] == ["shelf.list", "shelf.book.get", "shelf.book.put"]
    assert {record["title"] for record in found} == {"Shelves"}


def test_climbing_out_of_the_document_finds_nothing():
    assert read([{"a": 1}], fields={"a": "a", "out": "../../../../a"}) == [{"a": 1}]


def test_yaml_paths_are_the_same():
    data = b"shapes:\n  Parcel:\n    members:\n      Weight: heavy\n"
    table = Table(records="shapes.*.value.members?.*", fields={"field": "key", "shape": "../../../key"})
    records, _ = read_table([Fetched("a.yaml", data=data)], table)
    assert (records[0]["field"], records[0]["shape"]) == ("Weight", "Parcel")


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab?*"), inner, max_size=3),
    max_leaves=12,
)
paths = st.lists(st.sampled_from(["a", "b", "a?", "?", "*", "**", "0", "²", ""]), max_size=4).map(".".join)


@settings(max_examples=300, deadline=None)
@given(values, paths)
def test_any_path_into_anything_gives_records_or_one_typed_error(document, path):
    try:
        found = list(entries(document, path, "a.json"))
    except DataError as error:
        assert "a.json" in str(error)
        return
    for value, outer in found:
        assert not path or (outer or value is document)
        at_path(value, path)
