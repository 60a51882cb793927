import unicodedata

import bm25s
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.bm25 import bm25_tokens, words_of

SPACED = st.text(st.characters(codec="utf-8", max_codepoint=0x0DFF), max_size=60)
LATER = st.sampled_from(["", "한국어 문장", "ཀ་ཁ", "i̇", "İ", "_a_", "naïve C++ — the 2nd", "🙂 a1", "ⅷ ſ"])


@pytest.mark.parametrize(("shortest", "pattern"), [(1, r"(?u)\b\w+\b"), (2, r"(?u)\b\w\w+\b")])
@settings(max_examples=300, deadline=None)
@given(st.lists(SPACED | LATER, max_size=4))
def test_texts_with_spaces_have_the_words_that_bm25s_itself_finds(shortest, pattern, texts):
    expected = bm25s.tokenize(texts, token_pattern=pattern, return_ids=False, show_progress=False)
    assert bm25_tokens(texts, shortest=shortest) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("苹果的价格", ["苹果", "果的", "的价", "价格"]),
        ("猫", ["猫"]),
        ("iPhone手机每公斤5元", ["iPhone", "手机", "机每", "每公", "公斤", "5", "元"]),
        ("東京スカイツリー", ["東京", "京ス", "スカ", "カイ", "イツ", "ツリ", "リー"]),
        ("ราคา แอปเปิล", ["รา", "าค", "คา", "แอ", "อป", "ปเ", "เป", "ปิ", "ิล"]),
        ("ລາຄາ", ["ລາ", "າຄ", "ຄາ"]),
        ("ភាសា", ["ភា", "ាស", "សា"]),
        ("မြန်", ["မြ", "ြန", "န်"]),
        ("𠮷野家", ["𠮷野", "野家"]),
        ("苹果，香蕉。", ["苹果", "香蕉"]),
    ],
)
def test_scripts_without_spaces_give_pairs_of_characters(text, words):
    assert words_of(text) == words
    assert bm25_tokens([text]) == [[word.lower() for word in words]]


@pytest.mark.parametrize("script", ["THAI", "LAO", "KHMER", "MYANMAR", "CJK", "HIRAGANA", "KATAKANA", "TAI"])
def test_every_letter_and_mark_of_such_a_script_is_in_a_pair(script):
    letters = [
        chr(code)
        for code in range(0x0E00, 0x20000)
        if unicodedata.category(chr(code)) in ("Lo", "Lm", "Mn", "Mc")
        and unicodedata.name(chr(code), "").split(" ")[0].split("-")[0] == script
    ]
    assert letters
    assert [letter for letter in letters if words_of(letter + letter) != [letter + letter]] == []
