"""Korean by its grammar: particles say what a noun is to its verb, endings how a verb goes on."""

from __future__ import annotations

import re

from siglip_perception.language import english_words
from siglip_perception.language import korean_words as words
from siglip_perception.language.korean_forms import (
    Ending,
    Verb,
    ends_in,
    is_adnominal,
    is_joined_form,
    is_protected,
    kind_of,
    split_particle,
    verb,
)
from siglip_perception.language.korean_roles import FEELINGS, Reader
from siglip_perception.language.korean_tokens import tokens
from siglip_perception.language.phrase import Phrase, Reading
from siglip_perception.types import Link

_HANGUL = re.compile(r"[가-힣]")
_BREAKS = frozenset(".,;:!?、。~")
_NUMBER = r"(?:\d+(?:\.\d+)?|몇|한|두|세|네|반|다섯|여섯|일곱|여덟|아홉|열|스무|여러|서너|두어)"
_COUNTED = re.compile(
    rf"{_NUMBER}(?:{'|'.join(sorted(words.COUNTERS, key=len, reverse=True))})(?:씩|야|이야|쯤)?"
)
_MEASURED = re.compile(
    rf"{_NUMBER}(?:{'|'.join(sorted(words.UNITS, key=len, reverse=True))})(?:씩|쯤|정도|간)?"
)
_NUMBERED = re.compile(r"\d+(?:번|호|층)")
_MEASURED_PLACE = re.compile(rf"\d+(?:\.\d+)?(?:{'|'.join(words.UNITS)})?(?:으로|로|에|까지|만큼)")
_RANK = re.compile(r"(첫|두|세|네|다섯|여섯|일곱|여덟|\d)(?:번째|째)")
_QUESTIONS = ("어디", "어딨", "뭐", "무슨", "어느", "몇", "무엇", "누구")


def is_korean(text: str) -> bool:
    """Tell whether there is any Hangul in the text."""
    return _HANGUL.search(text) is not None


def parse(text: str) -> Reading:
    """Read a Korean sentence, or a list such as "빨간 컵. 접시."."""
    parser = _Parser(tokens(text))
    return Reading(tuple(parser.read()), tuple(dict.fromkeys(parser.verbs)))


class _Parser:
    """Tells the words apart and hands them to the reader, in their order."""

    def __init__(self, sentence: list[str]) -> None:
        self.tokens = sentence
        self.reader = Reader()
        self.verbs: list[str] = []
        self.i = 0

    def at(self, i: int) -> str:
        return self.tokens[i] if 0 <= i < len(self.tokens) else ""

    def next_word(self, i: int) -> str:
        """Return the next token that is not a mark."""
        while self.at(i) in _BREAKS and self.at(i):
            i += 1
        return self.at(i)

    def read(self) -> list[Phrase]:
        self.i = 0
        while self.i < len(self.tokens):
            before = self.i
            self._word()
            if self.i <= before:
                self.i = before + 1
        return self.reader.finish()

    def _word(self) -> None:
        """Read the words at `i` and advance it."""
        i, reader = self.i, self.reader
        token, following = self.at(i), self.at(i + 1)
        if token in _BREAKS:
            if token in ".;!?。":
                reader.end(is_list=token != "?")
            elif token in ",、":
                reader.pause()
            self.i = i + 1
            return
        if length := self._length_of_call(token):
            self.i = i + length
            return
        if self._time(token):
            return
        if self._is_manner(token, following):
            self.reader.close("")
            self.i = i + 1
            return
        if self._english_verb(token, following):
            return
        noun, particle = split_particle(token)
        if self._amount(token, noun, particle, following):
            return
        if self._selector(token, noun, particle, following):
            return
        if self._exclusion(token):
            return
        if self._side(token, following):
            return
        if self._verb(token, noun, particle):
            return
        self._noun(token, noun, particle, following)

    def _length_of_call(self, token: str) -> int:
        """Return the length, in words, of a call that begins a sentence: 민수야, 철수 씨,."""
        i = self.i
        following = self.at(i + 1)
        if i and self.at(i - 1) not in ".!?。":
            return 0
        if len(token) < 2 or not _HANGUL.match(token[-2:]):
            has_title = self.at(i + 2) == "," and following.endswith(("님", "씨"))
            return 3 if has_title else 0
        if following in ("씨", "님") and self.at(i + 2):
            return 2 + (self.at(i + 2) == ",")
        if self.at(i + 2) == "," and following.endswith(("님", "씨")) and len(following) > 1:
            return 3  # 박 대리님,
        if not following or verb(token) is not None or is_protected(token):
            return 0
        before = (ord(token[-2]) - 0xAC00) % 28 if _HANGUL.match(token[-2]) else 0
        calling = token[-1] == ("아" if before else "야")
        if following != ",":
            return int(calling and len(token) > 2)
        if calling or token.endswith(("씨", "님")):
            return 2
        if split_particle(token)[1] and not (token[-1] == "이" and before):
            return 0
        following_tokens = self.tokens[i + 2 :]
        end = next(
            (k for k, word in enumerate(following_tokens) if word in ".!?。"),
            len(following_tokens),
        )
        order = following_tokens[:end]
        is_list = "," in order or any(split_particle(w)[1] in words.JOINING for w in order[:-1])
        return 2 if order and verb(order[-1]) is not None and not is_list else 0

    def _is_manner(self, token: str, following: str) -> bool:
        """Tell whether a word is an adverb: 송송, or a bare word between object and verb."""
        if not following or following in _BREAKS or not _HANGUL.match(token):
            return False
        half = len(token) // 2
        is_reduplication = len(token) in (2, 4) and (
            token[:half] == token[half:]
            or (half == 2 and token[0] == token[1] and token[2] == token[3])
        )
        if is_reduplication and verb(token) is None and not is_protected(token):
            return True
        noun, particle = split_particle(token)
        if noun in ("반", "절반") and particle in ("만", "쯤") and verb(following) is not None:
            return True
        reader = self.reader
        if reader.has_noun or not reader.last_particle or not reader.has_object or particle:
            return False
        if following.startswith(words.AUXILIARIES) and is_joined_form(token):
            return False  # 감싸 줘
        acts = verb(following)
        return (
            acts is not None
            and acts.ending is not Ending.NOUN
            and verb(token) is None
            and not following.startswith(("해", "하", "부탁", "했", "할", "시"))
            and not is_protected(token)
            and token not in words.SHORT_NOUNS
            and token not in words.NUMERALS
            and token not in words.NEARNESS
            and split_side(token) is None
            and token not in words.ALL
            and not token.endswith(("번째", "지", *words.DOING))
        )

    def _time(self, token: str) -> bool:
        """Read an expression of time: 내일 아침에, 30분 뒤에, 다음 주 월요일까지."""
        i, reader = self.i, self.reader
        if reader.has_noun:
            return False
        if token in words.TIME_WORDS:
            self.i = i + 1
            return True
        spans = split_particle(self.at(i + 1))[0] in ("주", "달", "날", "해", "주말")
        if spans and token in ("이번", "다음", "지난"):
            self.i = i + 2
            return True
        time = next((word for word in words.DAY_TIMES if token.startswith(word)), "")
        if not time:
            return False
        remainder = token[len(time) :]
        if remainder in words.TIME_PARTICLES:
            self.i = i + 1
            return True
        following = self.at(i + 1)
        if remainder or not following or following in _BREAKS:
            return False
        if time in words.MEALS:
            after = verb(following)
            if after is not None and after.ending is not Ending.NOUN:
                return False
            if following.startswith(("식사", "밥", "먹", "상", "메뉴")):
                return False
        self.i = i + 1
        return True

    def _english_verb(self, token: str, following: str) -> bool:
        """Read an English verb with 하다: close 해 줘, pick up 해."""
        if not token.isascii() or not token.isalpha():
            return False
        i, particle = self.i, 0
        if following.lower() in english_words.PARTICLES:
            particle, following = 1, self.at(i + 2)
        word = token.lower()
        form = verb(following) if following.startswith(("해", "하", "했", "할")) else None
        if word not in english_words.VERBS or form is None or form.stems[:1] != ("하",):
            return False
        stem = "옮기" if word == "move" else "놓" if word in english_words.PLACING else "집"
        stem = stem if word in english_words.PLACING | english_words.TAKING else "열"
        self.verbs.append(f"{token} {following}")
        self.i = i + 2 + particle
        has_auxiliary = form.bare and self.at(self.i).startswith(words.AUXILIARIES)
        self.i += has_auxiliary
        ending = form.ending
        if has_auxiliary:
            auxiliary = verb(self.at(self.i - 1))
            ending = auxiliary.ending if auxiliary is not None else Ending.FINAL
        self.reader.verb(Verb((stem,), ending), is_negated=False)
        return True

    # Numbers

    def _amount(self, token: str, noun: str, particle: str, following: str) -> bool:
        """Read the count of a noun (컵 두 개를) or a measure (45도, 세 번, 3초 동안)."""
        i, reader = self.i, self.reader
        if (token in words.COUNTING or token.isdigit()) and following.startswith("번째"):
            reader.rank(words.COUNTING.get(token, 1))
            self.i = i + 2
            if following == "번째로" and self.at(i + 2) in words.SIZES:
                reader.which_next = words.SIZES[self.at(i + 2)]
                self.i = i + 3
                return True
            if particle_alone := following.removeprefix("번째"):
                reader.again(particle_alone)
            return True
        if _NUMBERED.fullmatch(token) and _is_named(following):
            reader.word(token)  # 1번 선반
            self.i = i + 1
            return True
        match = _RANK.match(token)
        if match or token in words.ORDINALS or token in ("첫번째", "첫째"):
            rank = words.ORDINALS.get(token) or words.COUNTING.get(match[1] if match else "첫", 1)
            reader.rank(rank)
            self.i = i + 1
            return True
        counter, counter_particle = split_particle(following)
        if noun in words.NUMERALS or token in words.NUMERALS:
            number = token if token in words.NUMERALS else noun
            if counter in words.UNITS or following in words.UNITS:
                self.i = i + 2
                self._after_measure()
                reader.measure(counter_particle if counter in words.UNITS else "")
                return True
            is_counter = following in words.COUNTERS or counter in words.COUNTERS
            has_noun = reader.has_noun or bool(reader.waiting)
            if is_counter and token == number and (has_noun or counter not in words.CONTAINERS):
                bare = following if following in words.COUNTERS else counter
                reader.count(number not in words.SINGLE, following[len(bare) :])
                self.i = i + 2
                return True
            if reader.has_noun and number in ("하나", "둘", "셋", "넷", "몇"):
                reader.count(number != "하나", particle)
                self.i = i + 1
                return True
            if token in words.NUMERALS and not token.isdigit():
                if token == "반" and (following in _BREAKS or not following):
                    return False
                reader.many_next = token not in words.SINGLE
                self.i = i + 1
                return True
        if token[:1].isdigit() and _MEASURED_PLACE.fullmatch(token):
            self.i = i + 1
            reader.measure("")
            return True
        base = noun.removesuffix("씩")
        if _MEASURED.fullmatch(noun) or _MEASURED.fullmatch(token) or _MEASURED.fullmatch(base):
            self.i = i + 1
            self._after_measure()
            reader.measure(particle)
            return True
        if reader.has_noun and (_COUNTED.fullmatch(noun) or _COUNTED.fullmatch(token)):
            reader.count(not noun.startswith(("1", "한")), particle.removesuffix("야"))
            self.i = i + 1
            return True
        if _COUNTED.fullmatch(noun) and noun[0].isdigit():
            reader.many_next = not noun.startswith("1")
            self.i = i + 1
            return True
        return False

    def _after_measure(self) -> None:
        while self.at(self.i) in words.AFTER_UNITS:
            self.i += 1

    # Selection and exclusion

    def _selector(self, token: str, noun: str, particle: str, following: str) -> bool:
        i, reader = self.i, self.reader
        if token in words.EVERY:
            reader.which_next = "all"
            self.i = i + 1
            return True
        if token in ("다른", "나머지") and following and verb(following) is None:
            reader.which_next = "other"
            self.i = i + 1
            return True
        if token in ("마지막", "마지막의"):
            if following and following not in _BREAKS and verb(following) is None:
                reader.which_next = "last"
                self.i = i + 1
                return True
            return False
        if token in words.ALL or (noun in words.ALL and particle in words.OBJECT):
            acts = verb(following)
            ending = kind_of(following) if acts is None else acts.ending
            is_subordinate = ending in (Ending.BECAUSE, Ending.IF)
            if not (is_subordinate or following.startswith(("되", "됐", "된", "돼", "끝"))):
                reader.select_all()
            self.i = i + 1
            return True
        if token in words.MOST:
            if following in words.SIZES:
                reader.which_next = words.SIZES[following]
                self.i = i + 2
                return True
            if following in words.NEARNESS:
                reader.near(words.NEARNESS[following])
                self.i = i + 2
                self._skip_being()
                return True
            part = following in words.KEPT_SIDES
            if part and _is_named(self.at(i + 2)):
                reader.word(f"{token} {following}")
                self.i = i + 2
                return True
            self.i = i + 1
            return True
        if token in words.NEARNESS:
            being = self._is_being(i + 1)
            if token in ("가까운", "먼") or being:
                reader.near(words.NEARNESS[token])
                self.i = i + 1
                self._skip_being()
                return True
            if token == "멀리" and reader.last_particle in words.FROM_PLACE:
                reader.far()
                self.i = i + 1
                return True
        return False

    def _is_being(self, i: int) -> bool:
        return self.at(i) in words.STATES or self.at(i).endswith(words.STATE_ENDINGS)

    def _skip_being(self) -> None:
        if self._is_being(self.i):
            self.i += 1

    def _exclusion(self, token: str) -> bool:
        i, reader = self.i, self.reader
        if not reader.has_noun and not reader.waiting:
            return False
        after = self.tokens[i + 1 : i + 5]
        if token == words.EXCEPT:
            has_rest = bool(set(after) & set(words.REST))
            if not reader.has_noun and not has_rest and reader.last_particle not in words.TOPIC:
                return False
        elif token == "그대로":
            if not (after and after[0].startswith(words.LEAVING)):
                return False
        elif token not in words.EXCLUDING:
            return False
        reader.exclude()
        self.i = i + 1
        return True

    # Sides

    def _side(self, token: str, following: str) -> bool:
        i, reader = self.i, self.reader
        side = split_side(token)
        if side is None:
            return False
        if side[1] == "끝" and side[2] in ("이", "가") and _is_named(self.at(i + 2)):
            return False  # 끝이 뾰족한 막대
        attached_noun, name, particle = side
        if attached_noun:
            reader.word(attached_noun)
        which, link = words.SIDES[name]
        part = name in words.PART_SIDES or (
            name in words.FACES and (particle in ("을", "를") or self._is_acted_on(particle))
        )
        if part and reader.has_noun and not attached_noun:
            reader.word(name)  # 상자 모서리
            if particle or not _is_named(following):
                reader.close(particle)
            self.i = i + 1
            return True
        is_deictic = self.at(i - 1) in words.POINTING and not attached_noun and not reader.has_noun
        if (
            name in words.KEPT_SIDES
            and not particle
            and not attached_noun
            and not reader.has_noun
            and _is_named(following)
        ):
            reader.word(name)  # 위쪽 서랍
            self.i = i + 1
            return True
        self.i = i + 1
        if particle in ("를", "을") and following.startswith(("지나", "거쳐", "통과", "넘어")):
            reader.side(Link.ABOVE if name == "위" else link, "의", tells=False)
            reader.pass_by()
            self.i = i + 2
            return True
        describes_next = self._is_being(self.i)
        acts = verb(following)
        if (
            not particle
            and acts is not None
            and acts.ending is not Ending.NOUN
            and not describes_next
        ):
            particle = "에"  # 달 가까이 옮겨
        if not reader.has_noun and (is_deictic or not reader.can_have_side()):
            inside = name in ("안", "속", "안쪽")
            if (is_deictic or inside) and particle in (
                *words.TO_PLACE,
                *words.TOWARDS,
                *words.FROM_PLACE,
                "의",
            ):
                reader.side_of_last(link, particle, describes_next=describes_next)
                if describes_next:
                    self.i += 1
                return True
            if describes_next:
                reader.which_next = which or reader.which_next
                self.i += 1
                return True
            if particle in ("", "의") and which:
                reader.which_next = which
                return True
            if particle in words.FROM_PLACE and which:
                reader.which_next = which
                return True
            reader.direction(particle)
            return True
        reader.side(link, particle, tells=describes_next or particle in ("", "의"))
        if describes_next:
            self.i += 1
        return True

    def _is_acted_on(self, particle: str) -> bool:
        """냉장고 안쪽 닦아: without a particle, before the verb."""
        acts = verb(self.at(self.i + 1))
        wipes = acts is not None and acts.stems[-1] in ("닦", "청소하", "씻", "쓸", "잡", "누르")
        return not particle and wipes

    # Verbs

    def _verb(self, token: str, noun: str, particle: str) -> bool:
        i, reader = self.i, self.reader
        following = self.next_word(i + 1) if self.at(i + 1) not in ".;!?。" else ""
        rolls = token in ("말아", "말아라") and reader.has_leading_particle  # 카펫을 말아
        rolls |= token in ("나면", "나서") and reader.last_particle in ("이", "가")  # 김이 나면
        rolls |= token == "줄래" and bool(reader.waiting or reader.has_noun)
        if token in words.FILLERS and not token.startswith(("앞", "뒤")) and not rolls:
            return False
        if token.endswith("서") and following.startswith(("그러", "그런")) and not reader.waiting:
            reader.drop()  # 바빠서 그러는데
            self.i = i + 2
            return True
        if token.startswith(("중이", "중인")) and reader.has_noun:
            reader.drop()  # 요리 중인데
            self.i = i + 1
            return True
        form = self._verb_form(token, noun, particle, following)
        if form is None:
            return False
        self.verbs.append(token)
        when = following.startswith("때") or following in _WHILE
        if form.ending is Ending.NOUN and when:
            reader.drop(topic=following.startswith("때까지"))
            self.i = i + 2
            return True
        if form.ending is Ending.NOUN:
            return self._describe(token, form, following)
        negated = _is_negated(token, self.tokens[i + 1 : i + 4])
        asking = following.startswith(words.ASKING)
        self.i = i + 1
        if form.ending is Ending.NOT and following.startswith(words.NOT_AFTER_JI):
            self.i = i + 2
            forbidding = verb(following)
            ending = forbidding.ending if forbidding else kind_of(following)
            if following.startswith(_SO_THAT) and reader.has_subject:
                reader.drop(topic=True)  # 물이 넘치지 않게
                return True
            if following in ("말고", "마") or following.startswith(("않게", "않도록", "못하게")):
                ending = Ending.AND
            turns = following in ("말고", "말구", "않고") or following.startswith(_SO_THAT[:4])
            reader.verb(Verb(form.stems, ending), is_negated=not asking, action=False, turns=turns)
            return True
        if negated:
            reader.verb(form, is_negated=True, action=False)
            if self.next_word(self.i).startswith(("안", "대신", "안돼", "안되")):
                self.i += 1
                if self.at(self.i).startswith(("돼", "되", "된", "됩")):
                    self.i += 1
            return True
        if form.ending is Ending.BEFORE:
            before = following.startswith("전")
            if before and reader.has_subject:
                reader.drop()  # 얼음이 녹기 전에
                self.i = i + 2
                return True
            then = Verb(form.stems, Ending.AND if before else Ending.FOR)
            named = reader.has_noun and reader.chunk[-1] not in words.NOTHINGS
            reader.verb(then, is_negated=False, action=bool(reader.waiting) or named)
            self.i += before
            return True
        if following.startswith(_THANKING) and form.ending is Ending.IF:
            while self.at(self.i).startswith(_THANKING):
                self.i += 1
            form = Verb(form.stems, Ending.FINAL)
        if form.stems == ("하",) and not reader.has_noun and not reader.waiting:
            return True
        spared = token in words.LEFT_AS_IS and not (reader.waiting or reader.has_noun)
        if spared:
            reader.spare()
            return True
        known = verb(following)
        must = known if known is not None and self.at(i + 1) == following else None
        if token.endswith("야") and must is not None and must.stems in (("하",), ("되",)):
            form = Verb(form.stems, must.ending)  # 해야 하니까
            self.i = i + 2
            known = None
        leads = known is not None and known.ending is Ending.NOUN and len(following) > 1
        leads &= self.at(i + 2) not in _ABILITY | set(words.AFTERWARDS)
        leads &= not self.at(i + 2).startswith("때")
        if form.bare and (following in _KEPT or leads) and _is_named(self.at(i + 2)):
            self.i = i + 2  # 걸쳐 둔 외투, 굴러 들어간 구슬
            stem = known.stems[-1] if known is not None and leads else form.stems[-1]
            reader.relative(f"{token} {following}", stem)
            return True
        chained = (
            known is not None
            and (
                form.bare
                or (
                    token.endswith(("고", "다", "다가"))
                    and known.stems[-1] in (*words.CARRYING, "있")
                    and form.ending is Ending.AND
                )
            )
            and self.at(i + 1) == following
            and form.ending is Ending.AND
            and known.ending is not Ending.NOUN
        )
        if chained:
            reader.chain(form.stems)
            return True
        question = any(self.at(k).startswith(_QUESTIONS) for k in range(len(self.tokens)))
        carries = known is not None and set(known.stems) & set(words.CARRYING)
        if form.stems[-1] == "가지" and token.endswith("고") and following and not carries:
            form = Verb(("이용하",), Ending.AND)  # 수건을 가지고 닦아
        elif form.stems[-1] in words.USING and (token.endswith("고") or not following):
            form = Verb(("쥐",), form.ending, form.past, form.bare)  # 가위를 쓰고 나서
        question |= self.at(self.i) == "?" and reader.has_subject
        noticed = token.endswith(("네", "네요", "군요", "잖아")) and self.at(i + 2)
        if noticed and self.at(i + 1) in _BREAKS and reader.has_subject:
            form = Verb(form.stems, Ending.BECAUSE)  # 구슬이 굴러다니네, 주워 줘
        reader.verb(form, is_negated=False, question=question)
        if token.endswith("거나"):
            reader.alternatives = list(reader.last)
        return True

    def _verb_form(self, token: str, noun: str, particle: str, following: str) -> Verb | None:
        """Analyze a word as a verb: listed, derived from a noun (청소해), or by its position."""
        reader = self.reader
        first = self.i == 0 or self.at(self.i - 1) in _BREAKS
        short = len(token) == 2 and token[1] == "가" and token[0] in words.SHORT_NOUNS
        short &= not (self.reader.waiting or self.reader.has_noun)
        if token == "해가" or short or (first and token in _NAMES_IN_GO and _is_named(following)):
            return None  # 해가 지면, 차고 문
        if self._is_participle(token, following):
            happens = token in ("간", "난", "선", "센", "찬")  # 금이 간 접시
            return (
                Verb((token,), Ending.NOUN)
                if happens
                else verb(token) or Verb((token,), Ending.NOUN)
            )
        if following.startswith("때") and token.endswith("를"):
            return verb(token)
        if following.startswith("때") and is_adnominal(token) and len(token) > 0:
            return verb(token) or Verb((token,), Ending.NOUN)
        if following in ("수", "수가", "수는", "수도") and is_adnominal(token):
            return verb(token) or Verb((token,), Ending.NOUN)
        if token.endswith("지") and following.startswith(("마", "않", "못")):
            return verb(token) or Verb((token[:-1],), Ending.NOT)
        later = following in words.AFTERWARDS or following in _ABILITY
        later |= following.startswith(("때", "다음"))
        safe = is_protected(token) or (particle and is_protected(noun)) or token in words.MODIFIERS
        if safe and not later and not (token == "가게" and self.at(self.i - 1).endswith("로")):
            return None
        if particle in ("을", "를") and len(noun) == 1 and noun in words.SHORT_NOUNS:
            return None
        if token in words.THINGS:
            return None
        listed = verb(token)
        if listed is not None:
            if len(token) == 1 and listed.ending is Ending.NOUN and not later:
                if token in ("산", "판") and (reader.has_noun or not _is_named(following)):
                    return None
                if token in ("산", "판") and not self._is_owned():
                    return None
                return listed if token in _SHORT_PARTICIPLES else None
            if token in ("개", "차", "새", "자", "배", "사", "파", "타", "매") and not (
                (following.startswith(words.AUXILIARIES) or verb(following) is not None)
                and (reader.waiting or reader.has_noun)
            ):
                return None
            marked = particle in (*words.OBJECT, *words.TOPIC) and (
                particle in ("을", "를") or not _HANGUL.match(self.at(self.i + 1))
            )
            return None if listed.ending is Ending.NOUN and marked and not later else listed
        if not following and len(token) > 1 and verb(f"{token}해") is not None:
            return Verb((f"{token}하",), Ending.FINAL)  # 90도 회전
        if token.endswith(words.DOING) and len(token) > 2:
            return Verb((token[:-1],), kind_of(token), "했" in token)
        if (
            token.endswith(("하는", "된", "되는", "한", "할"))
            and len(token) > 2
            and _is_named(following)
        ):
            does = token.endswith(("하는", "되는")) or reader.person
            return Verb((token,), Ending.NOUN) if does else None
        if particle in words.SUBJECT and not following.startswith(("줘", "주")):
            return None
        named = particle in (*words.OBJECT, *words.TO_PLACE, *words.TOWARDS)
        last = not following or self.at(self.i + 1) in _BREAKS
        if last and reader.goes_on and is_joined_form(token) and len(token) > 1:
            return Verb((token,), Ending.FINAL)  # 넣고 봉해
        certain = reader.has_noun and token.endswith(_CERTAIN)
        bodied = not reader.has_noun and split_particle(self.at(self.i - 1))[0] in words.BODY
        if (not (reader.has_leading_particle or bodied) or named) and not certain:
            return None
        if not following or self.at(self.i + 1) in _BREAKS:
            fits = token.endswith(words.LAST_ENDINGS) or is_joined_form(token)
        elif following.startswith(words.AUXILIARIES):
            forbids = following.startswith(words.NOT_AFTER_JI)
            fits = token.endswith("지") or (
                not forbids and (token.endswith("고") or is_joined_form(token))
            )
        else:
            joined = token.endswith("서") and is_joined_form(token[:-1])
            fits = joined or ends_in(token, words.CONNECTING_ENDINGS)
        if len(token) > 1 and fits:
            reader.is_guess = True
            bare = is_joined_form(token) and bool(following)
            ending = kind_of(token)
            if bare and ending is Ending.FINAL:
                ending = Ending.AND
            if token.endswith("지"):
                ending = Ending.NOT
            return Verb((token,), ending, bare=bare)
        return None

    def _is_owned(self) -> bool:
        """Tell whether a person or a time stands before: 어제 산, 엄마가 산."""
        before = self.at(self.i - 1)
        noun, particle = split_particle(before)
        return (
            before in words.TIME_WORDS
            or before.startswith(words.DAY_TIMES)
            or noun in words.PERSONS
            or particle in (*words.SUBJECT, *words.FROM_PLACE)
            or before in ("새로", "내가", "제가")
        )

    def _is_participle(self, token: str, following: str) -> bool:
        """Tell whether an unlisted verb stands between two nouns: 바닥에 굴러다니는 연필."""
        last = self.reader.last_particle
        if not last or not self.reader.fresh or not _is_named(following) or is_protected(token):
            return False
        if last in ("이", "가"):
            lies = split_particle(following)[1] in words.TO_PLACE
            return (token in words.MODIFIERS and not lies) or (
                is_adnominal(token) and token.endswith(words.PARTICIPLE_ENDINGS)
            )
        if last not in (*words.TO_PLACE, *words.FROM_PLACE) or len(token) < 2:
            return False
        if token in words.MODIFIERS or split_particle(token)[1] in ("은",):
            return token == "젖은"
        return token.endswith(words.PARTICIPLE_ENDINGS) and (
            not token.endswith("는") or token.endswith(words.ROAMING)
        )

    def _describe(self, token: str, form: Verb, following: str) -> bool:
        """A verb before the noun that it describes, or before 다음에, 수 있니, 것."""
        i, reader = self.i, self.reader
        self.i = i + 1
        if following in words.AFTERWARDS or following.startswith(
            ("다음", "후", "뒤에", "채", "직후")
        ):
            reader.verb(Verb(form.stems, Ending.AND), is_negated=False)
            self.i = i + 2
            return True
        if following in _ABILITY:
            self.i = i + 2
            ending = Ending.FINAL
            while self.at(self.i).startswith(("있", "없", "알")):
                able = verb(self.at(self.i))
                leads = able is not None and able.ending in (Ending.FOR, Ending.IF, Ending.BECAUSE)
                ending = able.ending if able is not None and leads else ending
                self.i += 1
            reader.verb(Verb(form.stems, ending), is_negated=False)
            return True
        if following in ("대신", "대신에"):
            reader.verb(Verb(form.stems, Ending.AND), is_negated=True, action=False)
            self.i = i + 2
            return True
        if not following or self.at(i + 1) in _BREAKS:
            reader.verb(Verb(form.stems, Ending.FINAL, form.past), is_negated=False)
            return True
        reader.relative(token, form.stems[-1])
        return True

    # Nouns

    def _noun(self, token: str, noun: str, particle: str, following: str) -> None:
        reader = self.reader
        self.i += 1
        if token in ("중에", "중에서", "가운데에서", "중"):
            reader.among()
            return
        if token in ("못", "도로") and verb(following) is not None:
            return
        if noun in ("위치", "자리") and particle in ("을", "를") and reader.has_noun:
            reader.close("을")  # 컵과 병의 위치를 바꿔
            return
        thing = words.THINGS.get(noun, words.THINGS.get(token))
        if thing is not None and reader.is_size_of_several():
            reader.again(particle)
            return
        if thing is not None and reader.has_noun:
            reader.word(thing)
            reader.close(particle or {"걸": "을", "게": "이", "건": "은"}.get(token, ""))
            return
        if thing is not None and (reader.which_next or reader.rank_next):
            reader.again(particle)
            return
        if token == "위치" or token in ("부탁", "부탁해", "부탁드려요", "부탁합니다"):
            reader.request()
            return
        if token == "좀" or (particle == "좀" and token != "좀"):
            if particle == "좀":
                reader.word(noun)
            reader.close("좀")
            return
        if self._is_dropped(token, noun, following):
            if split_side(following) is None:  # 컵 바로 옆에
                reader.close("")
            return
        if token in words.PRONOUNS or noun in words.PRONOUNS or noun == "나머지":
            reader.pronoun(token, particle)
            if token.startswith(_QUESTIONS):
                reader.verb(Verb(("있",), Ending.FINAL), is_negated=False, question=True)
            return
        if noun in words.PERSONS or (
            particle in ("이", "가") and not reader.has_noun and noun in words.PEOPLE
        ):
            reader.drop_chunk()
            return
        if (noun in words.BODY or noun.lower() in english_words.BODY) and not reader.chunk:
            reader.body(particle)
            return
        if token.isascii() and not token.isupper() and _is_english_filler(token):
            english = english_words.VERBS if following == "" else ()
            if token.lower() in english or not reader.has_noun:
                reader.close("")
                return
            reader.close("")
            return
        if particle == "이" and _acts(following):
            noun, particle = token, ""
        if particle == "의":
            reader.possess(noun)
            return
        reader.word(noun, particle_follows=bool(particle))
        if particle:
            reader.close(particle)

    def _is_dropped(self, token: str, noun: str, following: str) -> bool:
        dropped = (*words.DETERMINERS, *words.FILLERS)
        if token == "자" and following == "," and self.at(self.i - 2) == ",":
            return False  # 볼펜, 자, 풀
        if token in dropped:
            return True
        if noun in words.FILLERS and len(noun) > 1 and not is_protected(token):
            return True
        if noun in words.TURNS and (following.startswith("방향") or noun.endswith("방향")):
            return True
        if is_protected(token) or is_protected(noun):
            return False
        return token.endswith(words.ADVERB_ENDINGS) and len(token) > 1


_CERTAIN = ("줘", "주세요", "줄래", "해줘", "세요", "십시오", "주라", "줄래요", "주십시오")


def _acts(following: str) -> bool:
    """Tell whether an order follows, so that 이 before it is part of a name: 손잡이 잡아."""
    known = verb(following)
    return (
        not following
        or following in _BREAKS
        or (
            known is not None
            and known.ending in (Ending.AND, Ending.FINAL)
            and known.stems[-1] not in FEELINGS | _BEING
        )
    )


_SHORT_PARTICIPLES = frozenset(
    ["판", "산", "든", "둔", "쓸", "쓴", "찬", "뜬", "낀", "깬", "준", "온"]
)
_KEPT = frozenset(["둔", "놓은", "있는", "있던", "버린", "준", "뒀던", "놨던", "논", "본"])
_NAMES_IN_GO = frozenset(["차고", "사고", "재고", "보고", "비고", "최고", "경고"])
_SO_THAT = ("않게", "않도록", "못하게", "못하도록", "않으니", "않는데", "않아서", "않으면")
_WHILE = frozenset(["동안", "동안에", "중에", "중", "도중에"])
_THANKING = ("좋겠", "감사", "고맙", "되", "돼", "될", "안")
_ABILITY = frozenset(
    ["수", "수가", "수는", "수도", "줄", "건지", "건가요", "거야", "겁니다", "것인지"]
)
_BEING = frozenset(
    [
        "있",
        "없",
        "보이",
        "필요하",
        "아니",
        "열리",
        "닫히",
        "켜지",
        "꺼지",
        "들리",
        "비",
        "되",
        "무겁",
        "가볍",
        "크",
        "작",
        "떨어지",
        "놓이",
        "위험하",
        "더럽",
        "울리",
        "바뀌",
        "끓",
        "잠기",
        "깨지",
        "차",
        "식",
        "넘치",
        "가깝",
        "멀",
        "보",
    ]
)


def _is_named(following: str) -> bool:
    """Tell whether a noun follows, that a word before it can be part of."""
    if not following or following in _BREAKS or not following[0].isalnum():
        return False
    named = is_protected(following) or is_protected(split_particle(following)[0])
    if verb(following) is not None and not named:
        return False
    return split_side(following) is None and following not in words.FILLERS


def split_side(token: str) -> tuple[str, str, str] | None:
    """(noun before it, side, particle) of a side, alone or joined onto a noun."""
    if is_protected(token):
        return None
    for particle in (*words.SIDE_PARTICLES, ""):
        if not token.endswith(particle):
            continue
        rest = token[: len(token) - len(particle)]
        if rest in words.SIDES:
            return "", rest, particle
        if not particle.startswith(("에", "로", "으로")) and not (len(rest) > 3 and not particle):
            continue
        for side in words.SIDES:
            fused = rest.endswith(side) and (
                side not in words.NEVER_FUSED or particle.startswith("에")
            )
            if fused and len(rest) - len(side) >= 1 and not is_protected(rest):
                head = rest[: -len(side)]
                if len(side) == 1 and (
                    side in "끝쪽"
                    or not particle
                    or (len(head) == 1 and head not in words.SHORT_NOUNS)
                ):
                    continue
                return head, side, particle
    return None


def _is_negated(token: str, after: list[str]) -> bool:
    """Tell whether a verb forbids: by its own ending, or by the words after it."""
    following = after[0] if after else ""
    if following.startswith(words.ASKING):  # 집어 주지 않을래? asks for it
        return False
    if token.startswith(words.NEGATIVE_VERBS) or re.search(words.NEGATED_VERB_ENDING, token):
        return True
    if token.endswith("면") and not token.endswith(("주면", "주시면", "줬으면")):
        return " ".join(after).startswith(words.NOT_ALLOWED)
    return following in ("대신", "대신에")


def _is_english_filler(token: str) -> bool:
    word = token.lower()
    return (
        word in english_words.DETERMINERS
        or word in english_words.PREPOSITIONS
        or word in english_words.FILLERS
        or word in english_words.PERSONS
        or word in english_words.CONJUNCTIONS
        or word in ("pick", "put", "grab", "find", "up", "it")
    )
