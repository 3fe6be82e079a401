"""Sentences written by hand are read as they are meant: figures, and the kinds that cost most."""

from __future__ import annotations

from pathlib import Path

import pytest
from scoring import Item, items, load, score

from siglip_perception.language.instruction import parse
from siglip_perception.types import Role

HERE = Path(__file__).parent


def line(read: list[Item]) -> str:
    return " | ".join(map(str, read))


@pytest.mark.parametrize("language", ["en", "ko"])
def test_figures(language: str) -> None:
    """Check the figures of docs/instructions.md, with some room for added sentences."""
    result = score(load(HERE / f"sentences_{language}.txt"))
    assert result.sentences >= 350
    assert result.share(result.roles) >= 0.97, "\n".join(result.roles)
    for failing in (result.relations, result.steps, result.which):
        assert result.share(failing) >= 0.97, "\n".join(failing)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_sentences_of_another_writer(language: str) -> None:
    result = score(load(HERE / f"heldout_{language}.txt"))
    assert result.sentences >= 270
    assert result.share(result.roles) >= 0.95, "\n".join(result.roles)
    for failing in (result.relations, result.steps, result.which):
        assert result.share(failing) >= 0.97, "\n".join(failing)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        # One word, both verb and noun.
        ("put the drink on the table", "T drink | P table {rel=on; of=drink}"),
        ("can you open the can?", "T can"),
        ("water the plant", "T plant"),
        ("hand me water", "T water"),
        ("zip jacket", "T jacket"),
        # A verb that no lexicon has.
        ("scrunch the paper into the bin", "T paper | P bin {rel=in; of=paper}"),
        ("wring out the sponge", "T sponge"),
        ("plonk the mug next to the plate", "T mug | U plate {rel=next to; of=mug}"),
        # A direction is no selector, and an amount no object.
        ("tilt the cup left", "T cup"),
        ("tilt the left cup", "T cup {which=left}"),
        ("push the left drawer closed", "T drawer {which=left}"),
        ("move it 10 cm forward", ""),
        ("turn the dial 45 degrees", "T dial"),
        ("wait for 5 seconds", ""),
        # With, using, by.
        ("wipe the table with the sponge", "T table | U sponge {rel=with}"),
        ("pick up the cup with a blue lid", "T cup with a blue lid"),
        (
            "put the bottle in the box with the label facing up",
            "T bottle | P box {rel=in; of=bottle}",
        ),
        ("use the tongs to flip the egg", "U tongs {rel=with} | T egg"),
        # Where something goes, and what only tells it apart.
        (
            "put the cup on the table into the box",
            "T cup | U table {rel=on; of=cup} | P box {rel=in; of=cup}",
        ),
        (
            "put the cup on the plate next to the bowl",
            "T cup | P plate {rel=on; of=cup} | U bowl {rel=next to; of=plate}",
        ),
        ("pick the second cup from the left", "T cup {which=2 from left}"),
        ("bring me the largest box", "T box {which=largest}"),
        # Talk, time, purpose.
        ("I'm making coffee, could you pass me the mug?", "T mug"),
        ("the cup is dirty, wash it", "T cup"),
        ("hold the button until the light turns green", "T button"),
        ("push the lever to open the door", "T lever"),
        # What must not be touched.
        ("don't touch the red cup", "U red cup"),
        ("take the cup, not the glass", "T cup | U glass"),
        ("put everything except the cup in the box", "U cup | P box {rel=in}"),
        # Korean: particles, plurals, endings, spaces, 에 by its verb.
        ("식탁에 가위가 있어", "U 식탁 {of=가위} | T 가위"),
        ("핸들을 잡아", "T 핸들"),
        ("컵들을 잡아", "T 컵"),
        ("컵을 산처럼 쌓아 줘", "T 컵"),
        ("병뚜껑을 세 바퀴 돌려", "T 병뚜껑"),
        ("책 두권 가져와", "T 책"),
        ("구르는 공을 잡아", "T 구르는 공"),
        ("접시 위를 지나 컵을 옮겨", "U 접시 {rel=above} | T 컵"),
        ("배고프다. 사과 줘", "T 사과"),
        ("컵을 접시에 놓아", "T 컵 | P 접시 {rel=on; of=컵}"),
        ("컵을 상자에 넣어", "T 컵 | P 상자 {rel=in; of=컵}"),
        ("사과를 그릇에서 접시로 옮겨", "T 사과 | U 그릇 {rel=from} | P 접시 {rel=to; of=사과}"),
        ("빨간컵을집어서접시에놓아줘", "T 빨간컵 | P 접시 {rel=on; of=빨간컵; step=2}"),
        ("물이 끓으면 면을 넣어", "T 면"),
        ("공이 보이면 주워", "T 공"),
        ("빨간 컵 말고 파란 컵을 줘", "U 빨간 컵 | T 파란 컵"),
        # What stays, what comes of it, and where and with what it is done.
        ("wipe the table but leave the cups", "T table | U cups"),
        ("move the chair so the cart can pass", "T chair"),
        ("wrap the vase with bubble wrap", "T vase | U bubble wrap {rel=with}"),
        ("warm the bread in the oven", "T bread | P oven {rel=in; of=bread}"),
        ("grab the edge of the sheet", "T edge of the sheet"),
        ("I'm going to paint. Bring me the roller.", "T roller"),
        # A call, clauses with a subject of their own, participles, manners, parts.
        ("민수야, 창문 좀 닫아 줘", "T 창문"),
        ("소리가 날 때까지 뚜껑을 돌려", "T 뚜껑"),
        ("물이 넘치지 않게 뚜껑을 열어", "T 뚜껑"),
        ("통에서 꺼낸 쿠키를 줘", "U 통 {rel=from; of=쿠키} | T 쿠키"),
        ("손잡이가 빨간 가위를 줘", "T 손잡이가 빨간 가위"),
        ("상자를 번쩍 들어", "T 상자"),
        ("식탁 가장자리를 닦아", "T 식탁 가장자리"),
        ("문을 쾅 닫지 말고 살살 닫아", "T 문"),
        ("첫번째서랍닫아", "T 서랍 {which=1}"),
    ],
)
def test_these_are_read_right(sentence: str, expected: str) -> None:
    assert line(items(parse(sentence))) == expected


@pytest.mark.parametrize(
    "prompt",
    [
        "In: What action should the robot take to {}?\nOut:",
        "<instruction>{}</instruction>",
        '"{}"',
        "“{}”",
        "{}:",
        "Task: {}.\nAction:",
        "USER: {} ASSISTANT:",
        "### Instruction: {} ### Response:",
        "Your task is to {}",
        "could you please {}?",
        "I want you to {} now, please",
        "Hey robot, {}!",
        "Would it be possible to {}",
    ],
)
def test_what_is_around_an_order_is_not_read(prompt: str) -> None:
    read = parse(prompt.format("put the red cup on the plate"))
    assert line(items(read)) == "T red cup | P plate {rel=on; of=red cup}"


@pytest.mark.parametrize(
    "sentence",
    [
        "pikc up the red cup and put it on the plate",
        "pick up teh red cup and put it on the plate",
        "pick up the red cup adn put it on the plate",
        "pick up the red cup and put it ontp the plate",
        "Pick Up The red cup And Put It On The plate",
        "PICK UP THE red cup AND PUT IT ON THE plate",
        "pick up red cup and put it on plate",
    ],
)
def test_slips_case_and_articles(sentence: str) -> None:
    assert line(items(parse(sentence))) == "T red cup | P plate {rel=on; of=red cup; step=2}"


@pytest.mark.parametrize(
    ("sentence", "link"),
    [
        ("open the top drawer and put the bowl in it", "in"),
        ("open the top drawer and put the bowl inside", "in"),
        ("open the top drawer, then put the bowl on top of it", "on"),
        ("open the top drawer and put the bowl next to it", "next to"),
        ("위쪽 서랍을 열고 그 안에 그릇을 넣어", "in"),
        ("위쪽 서랍을 열고 그릇을 그 옆에 놔", "next to"),
    ],
)
def test_a_pronoun_is_the_place_of_the_next_step(sentence: str, link: str) -> None:
    read = parse(sentence)
    drawer, bowl = read.phrases
    text = [
        (read.phrases[mention.phrase], mention.role, mention.step) for mention in read.mentions
    ]
    assert (drawer, Role.TARGET, 1) in text
    assert (bowl, Role.TARGET, 2) in text
    assert (drawer, Role.PLACE, 2) in text
    place = next(mention for mention in read.mentions if mention.role is Role.PLACE)
    assert place.link is not None
    assert place.link.value == link
    assert place.of is not None
    assert read.phrases[read.mentions[place.of].phrase] == bowl


def test_the_container_is_closed_and_not_what_is_in_it() -> None:
    read = parse("put the mug in the microwave and close it")
    last = read.mentions[-1]
    assert (read.phrases[last.phrase], last.role, last.step) == ("microwave", Role.TARGET, 2)


@pytest.mark.parametrize(
    ("sentence", "phrases"),
    [
        ("open it", ()),
        ("stop", ()),
        ("5초만 기다려", ()),
        ("그거 집어", ()),
    ],
)
def test_naming_nothing_is_explained(sentence: str, phrases: tuple[str, ...]) -> None:
    read = parse(sentence)
    assert read.phrases == phrases
    assert sentence in read.explanation
    assert "names no object" in read.explanation
    assert "phrases" in read.explanation


def test_a_guess_says_so() -> None:
    assert parse("pick up the red cup").confidence == 1.0
    assert parse("pick up the red cup").explanation == ""
    assert parse("plonk the red cup on the plate").confidence < 1.0
    foreign = parse("prends la tasse rouge sur la table")
    assert foreign.phrases == ("prends la tasse rouge sur la table",)
    assert foreign.confidence < 0.5
    assert "is a guess" in foreign.explanation
