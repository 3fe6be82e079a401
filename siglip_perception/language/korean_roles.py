"""Roles, steps and relations of a Korean sentence's nouns, by particles and verbs."""

from __future__ import annotations

from dataclasses import dataclass, field

from siglip_perception.language import korean_words as words
from siglip_perception.language.korean_forms import Ending, Verb, without_possessive
from siglip_perception.language.phrase import Phrase, relate
from siglip_perception.types import Link, Role

_GUESS = 0.7
_AUXILIARY = frozenset(
    [
        "주",
        "놓",
        "두",
        "보",
        "버리",
        "있",
        "나",
        "내",
        "드리",
        "달",
        "말",
        "하",
        "싶",
        "않",
        "되",
        "가",
        "오",
        "부탁하",
        "원하",
        "시작하",
    ]
)
_STATES = frozenset(
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
        "비",
        "무겁",
        "가볍",
        "가깝",
        "멀",
        "크",
        "작",
        "떨어지",
        "놓이",
        "잠기",
        "위치하",
    ]
)
_HELPING = frozenset(["주", "보", "버리", "드리", "달", "있", "하", "싶"])
_HELPED = (("도와주",), ("돕",), ("부탁하",))
FEELINGS = frozenset(
    [
        "목마르",
        "배고프",
        "어둡",
        "밝",
        "춥",
        "덥",
        "뜨겁",
        "차갑",
        "더럽",
        "깨끗하",
        "심심하",
        "위험하",
        "고프",
        "급하",
        "좋",
        "싫",
        "예쁘",
        "늦",
        "아프",
        "피곤하",
        "지저분하",
        "시끄럽",
        "귀찮",
        "많",
        "적",
        "부족하",
        "바쁘",
        "미끄럽",
        "무섭",
        "힘들",
        "시리",
        "흐리",
        "맑",
        "좁",
        "넓",
        "높",
        "낮",
        "두껍",
        "얇",
        "따뜻하",
        "시원하",
        "조용하",
        "답답하",
        "불편하",
        "복잡하",
        "졸리",
    ]
)
_SEEING = frozenset(
    [
        "찾",
        "보",
        "살피",
        "확인하",
        "알리",
        "말하",
        "세",
        "가리키",
        "만지",
        "건드리",
        "닿",
        "감지하",
        "인식하",
        "바라보",
        "쳐다보",
        "찾아보",
        "탐색하",
        "검색하",
        "표시하",
        "설명하",
        "스캔하",
        "촬영하",
        "측정하",
        "점검하",
        "고르",
        "선택하",
    ]
)
_TAKING = frozenset(
    [
        "집",
        "잡",
        "꺼내",
        "줍",
        "들",
        "쥐",
        "빼",
        "뽑",
        "떼",
        "챙기",
        "골라내",
        "건지",
        "붙잡",
        "움켜쥐",
        "집어들",
        "꺼내오",
    ]
)
_SITTING = (("앉",), ("눕",))
_CARRIED = frozenset(["옮기", "가", "오", "가져가", "가져오", "이동하", "보내"])
_SUBJECTS = ("이", "가")
_PASSIVE = ("히", "리", "기", "이", "지", "우")
_INTRANSITIVE = frozenset(
    [
        "구르",
        "젖",
        "마르",
        "녹",
        "얼",
        "익",
        "끓",
        "식",
        "돌",
        "서",
        "눕",
        "앉",
        "숨",
        "뜨",
        "차",
        "새",
        "움직이",
        "남",
    ]
)


@dataclass
class _Noun:
    """A noun that waits for the verb that decides its role.

    side: a side such as 위 follows, which link names. marks: landmarks that select among several.
    """

    words: list[str]
    position: int
    particle: str = ""
    which: str = ""
    rank: int = 0
    many: bool = False
    link: Link | None = None
    side: bool = False
    marks: list[_Noun] = field(default_factory=list)
    antecedent: Phrase | None = None

    @property
    def text(self) -> str:
        return " ".join(self.words)


class Reader:
    """Builds the phrases from the words that `korean.parse` classifies."""

    def __init__(self) -> None:
        self.phrases: list[Phrase] = []
        self.waiting: list[_Noun] = []
        self.chunk: list[str] = []
        self.start = 0
        self.position = 0
        self.marks: list[_Noun] = []  # landmarks of the next noun
        self.which_next = ""
        self.rank_next = 0
        self.many_next = False
        self.is_guess = False
        self._chain: tuple[str, ...] = ()
        self._step = 0
        self._target: Phrase | None = None
        self._topic: list[_Noun] = []
        self._among: list[_Noun] = []
        self._person = False
        self._has_direction = False
        self._moves_hand = False  # the robot's own hand moves: 그리퍼를 컵 위로 옮겨
        self._cancelled: list[tuple[Phrase, bool]] = []  # of 닫지 말고; True: an object
        self._fresh = False  # a noun was closed just before
        self._after_verb = False
        self.last: list[Phrase] = []  # of the last verb
        self.alternatives: list[Phrase] = []  # of the first of two verbs: 들거나

    # Questions of the parser

    @property
    def has_noun(self) -> bool:
        return bool(self.chunk)

    @property
    def last_particle(self) -> str:
        return self.waiting[-1].particle if self.waiting and not self.chunk else ""

    @property
    def has_leading_particle(self) -> bool:
        """True if the last noun's particle leads to a verb: 컵을, 접시에."""
        leading = (
            *words.OBJECT,
            *words.TOPIC,
            *words.SUBJECT,
            *words.TO_PLACE,
            *words.TOWARDS,
            *words.FROM_PLACE,
        )
        return not self.chunk and bool(self.waiting) and self.waiting[-1].particle in leading

    @property
    def has_object(self) -> bool:
        """True if an object such as 컵을 waits for its verb."""
        return any(noun.particle in ("을", "를") for noun in self.waiting)

    @property
    def person(self) -> bool:
        """True if a person was just named: 친구가."""
        return self._person

    @property
    def fresh(self) -> bool:
        """True if the last noun was closed just before."""
        return self._fresh and not self.chunk

    @property
    def has_subject(self) -> bool:
        return any(noun.particle in words.SUBJECT for noun in self.waiting)

    @property
    def goes_on(self) -> bool:
        """True right after a verb that leads on to the next: 넣고."""
        return self._after_verb and not self.chunk and not self.waiting

    def is_size_of_several(self) -> bool:
        """Read the size in "둘 중에 큰 것", which selects among the nouns before."""
        if not self._among or len(self.chunk) != 1 or self.chunk[0] not in words.SIZES:
            return False
        self.which_next = words.SIZES[self.chunk.pop()]
        return True

    def can_have_side(self) -> bool:
        if not self.waiting:
            return False
        last = self.waiting[-1]
        joined = last.particle in words.JOINING or last.particle == "의"
        return joined or (last.side and last.particle in ("", "의"))

    # Words

    def word(self, text: str, *, particle_follows: bool = False) -> None:
        self.position += 1
        if not self.chunk:
            self.start = self.position
            self._settle_sides()
        self.chunk.append(text)
        self._fresh = self._after_verb = False

    def possess(self, noun: str) -> None:
        self.word(noun if noun.endswith("색") else f"{noun}의")

    def close(self, particle: str = "") -> None:
        """End the running phrase with the particle that followed it."""
        if not self.chunk:
            return
        owner = without_possessive(self.chunk[-1])
        if owner != self.chunk[-1] and not particle:
            particle = "의"
        self.chunk[-1] = owner
        text = self.chunk[:]
        self.chunk.clear()
        nothing = text[-1] in words.NOTHINGS and (text[-1], particle) != ("끝", "이")
        if (nothing and len(text) == 1) or particle in words.LIKENESS:
            self._has_direction = True
            self._clear_next()
            self._loose()
            return
        many = self.many_next or particle.startswith("들")
        self.waiting.append(
            _Noun(
                text, self.start, particle, self.which_next, self.rank_next, many, marks=self.marks
            )
        )
        self.marks = []
        self._clear_next()
        self._fresh, self._after_verb = True, False

    def _clear_next(self) -> None:
        self.which_next, self.rank_next, self.many_next = "", 0, False

    def pause(self) -> None:
        """A comma: nouns before it are of a list, or the verb before it has ended."""
        if self.chunk:
            self.close(",")
        self._fresh = False

    def rank(self, rank: int) -> None:
        """Set the rank of the next noun, counted from the side just read: 두 번째."""
        self.close("의")
        self.rank_next = rank

    def measure(self, particle: str) -> None:
        self._has_direction = True
        if self.chunk:
            self.close(particle)
        elif self.waiting and not self.waiting[-1].particle:
            self.waiting[-1].particle = particle

    def count(self, many: bool, particle: str) -> None:
        if self.chunk:
            self.many_next |= many
            self.close(particle)
        elif self.waiting:
            self.waiting[-1].many |= many
            if particle and not self.waiting[-1].particle:
                self.waiting[-1].particle = particle

    def select_all(self) -> None:
        self.close("")
        for noun in reversed(self.waiting):
            if not noun.particle or noun.particle in (*words.OBJECT, *words.TOPIC, *words.SUBJECT):
                noun.which, noun.many = noun.which or "all", True
                return
        for noun in self._topic:
            if noun.particle in (*words.SUBJECT, *words.TOPIC):
                noun.which, noun.many = noun.which or "all", True  # 구슬이 많네, 다 주워

    def near(self, which: str) -> None:
        """Select the next noun by distance, maybe from the noun before: 가까운, 먼."""
        self.close("")
        self.which_next = which
        if self.waiting and self.waiting[-1].particle in words.BEFORE_NEAR:
            mark = self.waiting.pop()
            mark.link = Link.NEAR if which == "nearest" else Link.FAR_FROM
            self.marks.append(mark)

    def far(self) -> None:
        """Make the last noun the place to stay away from: 커튼에서 멀리 (둬)."""
        self.waiting[-1].link, self.waiting[-1].side = Link.FAR_FROM, True
        self.waiting[-1].particle = "에"

    def again(self, particle: str) -> None:
        """Repeat the noun before: 왼쪽 것."""
        self.position += 1
        noun: _Noun | None = None
        if self._among:
            first = self._among.pop(0)
            noun = _Noun(first.words, first.position)
        elif self.waiting and not self.waiting[-1].particle:
            noun = _Noun(self.waiting[-1].words, self.position)
        elif self.phrases:
            last = self._target or self.phrases[-1]
            noun = _Noun([last.text], self.position)
        if noun is not None:
            noun.particle = particle or "을"
            noun.which, noun.rank, noun.marks = self.which_next, self.rank_next, self.marks
            self.marks = []
            self.waiting.append(noun)
        self._clear_next()

    def among(self) -> None:
        self.close("중에")
        group: list[_Noun] = []
        while self.waiting and (not group or self.waiting[-1].particle in words.JOINING):
            group.insert(0, self.waiting.pop())
        self._among = group

    def request(self) -> None:
        """Make the noun before the target: 부탁해, or a noun with 좀."""
        self.close("을")
        self.verb(Verb(("주",), Ending.FINAL), is_negated=False)

    def pronoun(self, token: str, particle: str) -> None:
        self.close("")
        self._person = token in ("내가", "제가", "네가", "니가", "우리가")
        self._loose()
        self._clear_next()

    def body(self, particle: str) -> None:
        self._fresh = False
        self._moves_hand = particle in words.OBJECT

    def drop_chunk(self) -> None:
        self.chunk.clear()
        self._person = True

    def drop(self, *, topic: bool = False) -> None:
        """Drop nouns that only say when: 빵 자를 때; keep 버튼을 before 불이 켜질 때까지."""
        self.chunk.clear()
        objects = self._before_subject(self.waiting)
        if topic and not objects:
            self._topic = self._topic or self.waiting  # an order without an object is about it
        self.waiting = objects
        self.marks.clear()
        self._clear_next()

    @staticmethod
    def _before_subject(nouns: list[_Noun]) -> list[_Noun]:
        """Return objects before the subject of a clause of time or reason: the order's own."""
        subject = max((k for k, noun in enumerate(nouns) if noun.particle in _SUBJECTS), default=0)
        return [noun for noun in nouns[:subject] if noun.particle in ("을", "를")]

    def exclude(self) -> None:
        """Exclude the noun before: 말고, 대신, 아니라."""
        self.close("말고")
        if self.waiting:
            self.waiting[-1].particle = "말고"

    # Sides

    def side(self, link: Link | None, particle: str, *, tells: bool) -> None:
        """Make the noun before a side such as 위에 a place."""
        self.close("의")
        if not self.waiting:
            return
        last = self.waiting[-1]
        if particle in ("을", "를"):
            last.particle = particle  # 식탁 위를 닦아: the table
            return
        if not (last.side and last.particle in ("", "의")):
            last.link = link
        last.side, last.particle = True, particle or "의"
        group = [last]
        for noun in reversed(self.waiting[:-1]):
            if noun.particle not in words.JOINING:
                break
            group.insert(0, noun)
        for noun in group:
            noun.link, noun.side, noun.particle = last.link, True, last.particle
        self._fresh = True
        if tells and particle in ("", "의"):
            return
        if tells:
            self._tell(group)

    def _tell(self, nouns: list[_Noun]) -> None:
        for noun in nouns:
            if noun in self.waiting:
                self.waiting.remove(noun)
                self.marks.append(noun)

    def _settle_sides(self) -> None:
        """Make sides without a particle landmarks of the next noun: 접시 위 컵."""
        telling = [n for n in self.waiting if n.side and n.particle in ("", "의")]
        if telling:
            self._tell(telling)

    def pass_by(self) -> None:
        if self.waiting:  # a side of nothing is none: "?? 위를 지나"
            self.waiting[-1].particle = "지나"

    def side_of_last(self, link: Link | None, particle: str, *, describes_next: bool) -> None:
        """Add a place in the target of the step before: 그 안에."""
        if self._target is None:
            self.direction(particle)
            return
        self.position += 1
        noun = _Noun([self._target.text], self.position, particle or "의", link=link, side=True)
        noun.antecedent = self._target
        if describes_next or particle in ("", "의"):
            self.marks.append(noun)
        else:
            self.waiting.append(noun)

    def direction(self, particle: str) -> None:
        self._has_direction = True
        self._fresh = False

    def _loose(self) -> None:
        """Turn landmarks that no noun follows into phrases: 식탁 위에 있는 걸."""
        self._settle_sides()
        for mark in self.marks:
            mark.particle = "의"
            self.waiting.append(mark)
        self.marks = []

    # Verbs

    def relative(self, token: str, stem: str) -> None:
        """Read a verb that describes the noun after it: 접시에 놓인, 뚜껑이 달린, 구르는."""
        is_intransitive = stem.endswith(_PASSIVE) or stem in _INTRANSITIVE or stem == token
        is_intransitive &= stem not in ("빌리", "맡기", "잃어버리")
        if self.chunk:
            if stem in words.OWNING or is_intransitive or stem in words.GOING:
                self.word(token)
            else:
                self.chunk.clear()
                self._clear_next()
            return
        if self._person:
            self._person = False
            return
        if token in words.STATES and not (self.waiting and self._fresh):
            return
        last = self.waiting[-1] if self.waiting and self._fresh else None
        if last is not None and (last.side or last.particle in words.TO_PLACE):
            group = [last]
            for noun in reversed(self.waiting[:-1]):
                if noun.particle not in words.JOINING:
                    break
                group.insert(0, noun)
            if not last.side:
                last.link = _lying(stem)
            for noun in group:
                noun.link = last.link
            self._tell(group)
            return
        if last is not None and last.particle in words.TOWARDS and not last.side:
            self.waiting.pop()  # 나무로 만든 상자
            self.chunk = [*last.words[:-1], last.words[-1] + last.particle, token]
            self.start, self.marks = last.position, last.marks
            return
        if last is not None and last.particle in words.FROM_PLACE:
            last.link = Link.FROM
            self._tell([last])  # 통에서 꺼낸 쿠키
            return
        is_wearing = last is not None and last.particle in ("을", "를")
        is_wearing &= token in words.WORN_PARTICIPLES
        is_clause = last is not None and last.particle in words.SUBJECT
        is_clause &= (
            is_intransitive or stem in words.OWNING or stem in words.GOING or stem in _STATES
        )
        if last is not None and (is_clause or is_wearing):
            self.waiting.pop()
            self.chunk = [*last.words[:-1], last.words[-1] + last.particle, token]
            self.start = last.position
            self.marks = last.marks
            return
        if (
            last is not None
            and last.particle in (*words.OBJECT, *words.SUBJECT)
            and not is_intransitive
        ):
            self.waiting.pop()
            return
        if stem in words.USED and not is_intransitive:
            return
        self.word(token)

    def chain(self, stems: tuple[str, ...]) -> None:
        """Read a verb that the next word continues: 밀어 넣어."""
        self.close("")
        self._chain += stems

    def spare(self) -> None:
        """Leave the named nouns alone: "칼은 위험하니까 두고"."""
        for noun in self._topic:
            self._take(noun, Role.UNKNOWN, None, 0)
        self._topic = []
        for phrase in self.last:
            phrase.role = Role.UNKNOWN

    def verb(
        self,
        verb: Verb,
        *,
        is_negated: bool,
        action: bool = True,
        question: bool = False,
        turns: bool = False,
    ) -> None:
        """Read a verb, which decides the roles of all waiting nouns."""
        self.close("")
        self._settle_sides()
        if (self.marks and not self.waiting) or self.marks:
            self._loose()
        stems, self._chain = self._chain + verb.stems, ()
        if stems[-1:] in (("하",), ("주",), ("부탁하",)) and self.waiting:
            self._remove_action(self.waiting[-1])
        nouns, self.waiting = self.waiting, []
        has_direction, self._has_direction = self._has_direction, False
        self._clear_next()
        self._person = False
        if not (nouns or self._cancelled) and self._after_verb and set(stems) <= _AUXILIARY:
            return
        self._after_verb = True
        has_quotation = any(noun.particle.endswith("라고") for noun in nouns)
        if (
            not is_negated
            and not has_quotation
            and (
                verb.ending in (Ending.BECAUSE, Ending.FOR, Ending.IF)
                or (verb.past and verb.ending is Ending.FINAL and not question)
                or (bool(stems) and set(stems) <= FEELINGS and not question)
            )
        ):
            self.waiting = self._before_subject(nouns)
            acts = verb.ending is Ending.FOR and not set(stems) & _STATES
            topics = [
                noun
                for noun in nouns
                if noun not in self.waiting and not (acts and noun.particle in _SUBJECTS)
            ]
            if topics:
                self._topic = topics
            return
        if (
            verb.stems
            and verb.stems[-1] in words.USING
            and verb.ending is Ending.AND
            and nouns
            and not is_negated
        ):
            nouns[-1].particle = "로써"
            self.waiting = nouns
            return
        settles = _Settle(self, nouns, stems, is_negated=is_negated, question=question)
        if action and not is_negated and not settles.state:
            idle = (
                set(stems) <= FEELINGS
                or (not nouns and stems[:1] in _HELPED)
                or (not nouns and not has_direction and set(stems) <= set(words.GOING))
            )
            self._step += not idle
        self.last = settles.settle()
        self._moves_hand = False
        self._turn_to(nouns, settles, turns=turns)
        if is_negated:
            for phrase in self.alternatives:  # "들거나 옮기지 마": neither
                phrase.role = Role.UNKNOWN
        self.alternatives = []
        self.is_guess = False

    def _turn_to(self, nouns: list[_Noun], settles: _Settle, *, turns: bool) -> None:
        """Make objects of a negated verb targets of the next: 문을 쾅 닫지 말고 살살 닫아."""
        if settles.is_negated and not (nouns or turns):
            return  # 깨지 않게 조심해서 옮겨
        before, self._cancelled = self._cancelled, []
        if turns:
            self._cancelled = [
                (phrase, noun.particle in (*words.OBJECT, *words.TOPIC, ""))
                for noun, phrase in zip(nouns, self.last, strict=False)
            ]
        elif not (settles.is_negated or nouns or settles.going or settles.state):
            for phrase, is_object in before:
                if is_object:
                    phrase.role = Role.TARGET

    def _remove_action(self, noun: _Noun) -> None:
        """Remove an action from the end of a noun phrase: 책상 정리 (좀 해줘)."""
        verb = f"{noun.words[-1]}하"
        if len(noun.words) > 1 and (verb in words.ACTING or verb in words.PLACING):
            noun.words = noun.words[:-1]

    def end(self, *, is_list: bool = True) -> None:
        """End a sentence; without a verb its phrases have no roles."""
        self.close("")
        is_request = bool(self.waiting) and self.waiting[-1].particle == "좀"
        self._settle_sides()
        if self.marks:
            self._loose()
        if is_request:
            self.verb(Verb(("주",), Ending.FINAL), is_negated=False)
        elif not is_list and self.has_subject:
            self.verb(Verb(("있",), Ending.FINAL), is_negated=False, question=True)
        elif self._chain:
            self.verb(Verb((), Ending.FINAL), is_negated=False)
        for noun in self.waiting:
            self._take(noun, Role.UNKNOWN, None, max(self._step, 1))
        self.waiting = []
        self._clear_next()
        self._after_verb = False

    def finish(self) -> list[Phrase]:
        self.end()
        if not self.phrases and self._topic:
            for number, noun in enumerate(self._topic):
                is_not_target = (
                    number or noun.particle in (*words.TO_PLACE, "말고", "의") or noun.side
                )
                role = Role.UNKNOWN if is_not_target else Role.TARGET
                self._take(noun, role, None, 1).confidence = 0.4
        self.phrases.sort(key=lambda phrase: phrase.position)
        relate(self.phrases)
        return self.phrases

    def _take(self, noun: _Noun, role: Role, link: Link | None, step: int) -> Phrase:
        phrase = Phrase(
            noun.text,
            role,
            position=noun.position,
            step=max(step, 1),
            link=link,
            which=noun.which,
            rank=noun.rank,
            many=noun.many,
            confidence=_GUESS if self.is_guess else 1.0,
            antecedent=noun.antecedent,
        )
        if noun.antecedent is not None:
            phrase.which, phrase.rank = noun.antecedent.which, noun.antecedent.rank
        for mark in noun.marks:
            landmark = self._take(mark, Role.UNKNOWN, mark.link, step)
            landmark.of = phrase
        self.phrases.append(phrase)
        return phrase


def _lying(stem: str) -> Link | None:
    """Return the link of 에 before a verb that describes a noun: 벽에 걸린 on, 통에 담아 둔 in."""
    if stem in ("있", "없", "보이"):
        return None
    return words.LYING.get(stem, Link.IN if stem in words.IN_STEMS else Link.ON)


class _Settle:
    """Decides the roles of the nouns before one verb."""

    def __init__(
        self,
        reader: Reader,
        nouns: list[_Noun],
        stems: tuple[str, ...],
        *,
        is_negated: bool,
        question: bool,
    ) -> None:
        self.reader = reader
        core = [stem for stem in stems if stem not in _HELPING] or list(stems)
        self.stems = tuple(core)
        self.is_negated = is_negated
        self.nouns = nouns
        self.state = question or bool(stems and stems[-1] in _STATES)
        stems = self.stems
        self.going = bool(stems) and set(stems) <= set(words.GOING)
        self.placing = any(stem in words.PLACING for stem in stems) and not self.state
        self.seeing = any(stem in _SEEING for stem in stems)
        self.covering = bool(stems) and stems[-1].startswith(words.COVERING)

    def settle(self) -> list[Phrase]:
        reader = self.reader
        nouns = self._split()
        roles = [self._role(noun, self._particle(number)) for number, noun in enumerate(nouns)]
        step = reader._step
        results: list[tuple[_Noun, Role, Phrase]] = []
        for noun, (role, link) in zip(nouns, roles, strict=True):
            results.append((noun, role, reader._take(noun, role, link, step)))
        targets = [phrase for _, role, phrase in results if role is Role.TARGET]
        if (
            not targets
            and reader._topic
            and not self.state
            and not self.is_negated
            and not self.going
        ):
            targets = self._promote(step)
        for noun in reader._among:
            reader._take(noun, Role.UNKNOWN, None, step)
        reader._among = []
        if not self.is_negated and not self.state:
            reader._topic = []
        for number, (noun, role, phrase) in enumerate(results):
            if role is Role.PLACE or (
                role is Role.UNKNOWN
                and self.state
                and (noun.side or noun.particle in words.TO_PLACE)
            ):
                before = [p for _, r, p in results[:number] if r is Role.TARGET]
                phrase.of = before[-1] if before else (targets[0] if targets else None)
                if phrase.of is None and role is Role.PLACE:
                    phrase.of = reader._target
        if targets and not self.is_negated:
            reader._target = targets[-1]
        elif self.going and not self.is_negated:
            places = [phrase for _, role, phrase in results if role is Role.PLACE]
            reader._target = reader._target or (places[-1] if places else None)
        return [phrase for _, _, phrase in results] + [
            t for t in targets if t not in [p for *_, p in results]
        ]

    def _promote(self, step: int) -> list[Phrase]:
        """Make the topic of a reason or condition the verb's target: 공이 보이면 주워."""
        reader = self.reader
        targets: list[Phrase] = []
        for noun in reader._topic:
            place = noun.side or noun.particle in words.TO_PLACE
            phrase = reader._take(
                noun,
                Role.UNKNOWN if place or targets else Role.TARGET,
                noun.link if place else None,
                step,
            )
            if not place and not targets:
                targets.append(phrase)
        for phrase in reader.phrases[-len(reader._topic) :]:
            if phrase.role is Role.UNKNOWN and targets and phrase not in targets:
                phrase.of = phrase.of or targets[0]
        reader._topic = []
        return targets

    def _particle(self, number: int) -> str:
        """Return the noun's particle; for coordinated nouns, that of the last."""
        particle = self.nouns[number].particle
        if particle in words.JOINING or particle == ",":
            pair_count = sum(
                noun.particle in ("랑", "이랑", "하고", "들하고") for noun in self.nouns
            )
            for noun in self.nouns[number + 1 :]:
                away = noun.particle in (*words.TO_PLACE, *words.TOWARDS, *words.FROM_PLACE)
                if pair_count > 1 and away and not self._has_marked_object():
                    return "을"  # 빗이랑 거울이랑 가방에 넣어
                if noun.particle not in words.JOINING and noun.particle != ",":
                    return noun.particle if not noun.side else "을"
            return ""
        return particle

    def _has_marked_object(self) -> bool:
        return any(noun.particle in words.OBJECT for noun in self.nouns)

    def _split(self) -> list[_Noun]:
        """Split a noun where 을 was left out: "파란 병 쓰레기통에 버려" names two things."""
        has_object = any(
            not noun.side
            and (
                not noun.particle
                or noun.particle
                in (*words.OBJECT, *words.TOPIC, *words.SUBJECT, ",", *words.JOINING)
            )
            for noun in self.nouns
        )
        if has_object or self.reader._target is not None or not self.placing or self.reader._topic:
            return self.nouns
        result: list[_Noun] = []
        for noun in self.nouns:
            goal = noun.particle in (*words.TO_PLACE, *words.TOWARDS)
            at = _second(noun.words)
            if goal and at and not result:
                first = _Noun(noun.words[:at], noun.position, "", noun.which, noun.rank, noun.many)
                second = _Noun(noun.words[at:], noun.position + 1, noun.particle)
                first.marks, second.link, second.side = noun.marks, noun.link, noun.side
                result += [first, second]
            else:
                result.append(noun)
        self.nouns = result
        return result

    def _role(self, noun: _Noun, particle: str) -> tuple[Role, Link | None]:
        if particle == "말고":
            return Role.UNKNOWN, noun.link
        if particle == "지나":
            return Role.UNKNOWN, noun.link
        if particle == "로써":
            return Role.UNKNOWN, Link.WITH
        if particle in words.LIKENESS:
            return Role.UNKNOWN, None
        if self.is_negated:
            link = noun.link
            if not noun.side and particle in words.FROM_PLACE:
                link = Link.FROM
            elif not noun.side and particle in words.TO_PLACE:
                link = self._lies()
            return Role.UNKNOWN, link
        if particle == "의":
            return Role.UNKNOWN, noun.link
        if particle in words.FROM_PLACE:
            if noun.side:
                waits = self.going and noun.link is not Link.FROM
                return (Role.PLACE if waits else Role.UNKNOWN), noun.link
            return Role.UNKNOWN, Link.FROM
        if noun.side and noun.link is Link.FROM:
            return Role.UNKNOWN, Link.FROM
        if particle in words.TO_PERSON:
            return Role.PLACE, Link.TO
        if particle in words.TOWARDS:
            return self._towards(noun)
        if particle in words.TO_PLACE:
            if self.state or self.seeing:
                return Role.UNKNOWN, noun.link
            if self.placing or self.going or self._gives() or self.stems[-1:] in _SITTING:
                if noun.link is not None:
                    return Role.PLACE, noun.link
                return Role.PLACE, self._lies()
            if any(stem in words.TO_STEMS for stem in self.stems):
                return Role.PLACE, noun.link or Link.TO
            if noun.side or (self.stems and self.stems[-1] in _TAKING):
                return Role.UNKNOWN, noun.link
            return Role.PLACE if self._has_object() else Role.UNKNOWN, noun.link or self._lies()
        if noun.side:
            return Role.UNKNOWN, noun.link
        return Role.TARGET, None

    def _towards(self, noun: _Noun) -> tuple[Role, Link | None]:
        """Return the role of a noun with 로: a goal or an instrument."""
        if noun.side and not self._acts_on_another(noun) and not self.going:
            return Role.TARGET, None  # 의자 뒤로 빼
        if noun.side:
            moves = self.placing or self.going or self._moves()
            return (Role.PLACE if moves else Role.UNKNOWN), noun.link
        tool = noun.words[-1] in words.TOOLS
        if (
            self.stems
            and self.stems[-1] in ("주", "골라주", "선택하", "하", "바꾸", "갈", "고르")
            and not tool
        ):
            return Role.TARGET, None
        if self.covering or not (self._moves() or self.going):
            return Role.UNKNOWN, Link.WITH
        goal = any(
            item is not noun and item.particle in (*words.TO_PLACE, *words.TOWARDS)
            for item in self.nouns
        )
        lands = any(item is not noun and item.particle in words.TO_PLACE for item in self.nouns)
        if lands and self._has_object() and not any(stem in _CARRIED for stem in self.stems):
            return Role.UNKNOWN, Link.WITH  # 대야에 물을 바가지로 담아
        if tool and (goal or not any(stem in ("옮기", "가", "가져가") for stem in self.stems)):
            return Role.UNKNOWN, Link.WITH
        return Role.PLACE, Link.TO

    def _moves(self) -> bool:
        return any(stem in words.MOVING for stem in self.stems)

    def _acts_on_another(self, noun: _Noun) -> bool:
        """Tell whether something else is acted on, here or before."""
        has_other = any(
            item is not noun and not item.side and item.particle not in words.FROM_PLACE
            for item in self.nouns
        )
        has_context = (
            self.reader._target is not None or bool(self.reader._topic) or self.reader._moves_hand
        )
        return has_other or has_context or noun.link in (Link.TO, Link.NEAR, Link.NEXT_TO, Link.IN)

    def _has_object(self) -> bool:
        return any(noun.particle in words.OBJECT or not noun.particle for noun in self.nouns)

    def _gives(self) -> bool:
        """Tell whether something is given: 화분에 물을 줘."""
        return "주" in self.stems and any(n.particle in words.OBJECT for n in self.nouns)

    def _lies(self) -> Link | None:
        """Return the link of 에 before this verb: 넣어 in, 놓아 on."""
        for stem in self.stems:
            if stem in words.AGAINST_STEMS:
                return Link.AGAINST
        main = [stem for stem in self.stems if stem not in ("놓", "두")] or list(self.stems)
        for stem in (*reversed(main), *self.stems):
            if stem in words.IN_STEMS:
                return Link.IN
            if (stem in words.TO_STEMS and stem != "주") or self.going:
                return Link.TO
            if stem in words.PLACING:
                return Link.ON
        return Link.TO if "주" in self.stems else Link.ON


def _second(text: list[str]) -> int:
    """Return the index of the word where the second of two nouns begins; 0: there is only one."""
    for number in range(1, len(text)):
        before, word = text[number - 1], text[number]
        if word in words.MODIFIERS and before not in words.MODIFIERS:
            return number
    at = len(text) - 1
    while at > 0 and text[at - 1] in words.MODIFIERS:
        at -= 1
    return at
