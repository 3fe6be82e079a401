"""Patterns around an English order: "could you please", "your task is to", "don't ever"."""

from __future__ import annotations

import re

_ASK = (
    r"(?:please |just |kindly |maybe |perhaps |possibly |also |quickly |now |then |go ahead and "
    r"|help me(?: to)? )*"
)
# The speaker's own: an order, unless another one follows.
_PLAN = (
    r"(?:(?:i|we) (?:want|need|have|would like|wanna|gotta) to (?!have |see )"
    r"|(?:i'd|we'd|i'll|we'll) (?:like|love|need) to (?!have |see )"
    r"|(?:i|we) (?:should|must) (?!see |have ))"
)
# An order follows; each ends in a space.
_COURTESIES = (
    r"(?:would|do) you mind ",
    r"would you be (?:so kind|kind enough|able|willing)(?: as)? to ",
    r"(?:wanna|gonna|gotta) ",
    r"(?:can|could|will|would|may|might) (?:you|u|ya|we|someone|somebody) " + _ASK,
    r"(?:can|could|may|might) i (?:please )?(?:ask|have|get|trouble|request) you to " + _ASK,
    r"(?:can|could|may|might) (?:i|we) (?:please |just )*(?=(?:have|get|see|borrow) )" + _ASK,
    r"(?:i|we) (?:just |really )?(?:want|need|would like|'d like|would love|like|wish|expect"
    r"|require|ask|order|command|am asking|urge|told|asked) (?:you|the robot|it|us) (?:to )?"
    + _ASK,
    r"(?:i'd|we'd) (?:really )?(?:like|love|want|need|appreciate) (?:it if )?(?:you|the robot)"
    r" (?:to |could |would )?" + _ASK,
    _PLAN,
    r"(?:i'm|i am|we're) (?:asking you to|telling you to) ",
    r"(?:let's|lets|let us|lemme|let me)(?: see (?:you|if you can|how you))? (?!have |see )",
    r"(?:make|be) sure (?:that )?(?:you |to |and )?(?!not |don't )",
    r"(?:be careful|take care) (?:to |and |when you )",
    r"(?:don't|never) (?:forget|hesitate|fail) to ",
    r"(?:don't worry|never mind|no problem|no worries) ",
    r"(?:remember|proceed|manage|attempt|continue|start|begin) to ",
    r"(?:go ahead|go|try|come|come here|come on) and |try to ",
    r"help me (?:to )?(?:out (?:and|by) )?",
    r"be so kind as to ",
    r"(?:is it|would it be|it is|it's|it would be|it'd be) (?:possible|ok|okay|great|nice|good"
    r"|helpful|lovely|time|best) (?:for (?:you|the robot) )?"
    r"(?:to |if you (?:could |can |would )?)",
    r"i (?:wonder|was wondering|am wondering) if you (?:could|can|might|would) ",
    r"i'd appreciate it if you (?:could|would) ",
    r"why (?:don't|not|do) (?:you|we) ",
    r"(?:why not|how about|what about) (?:you )?",
    r"(?:your|the|my|our|this) (?:(?:next|new|first|current|only|main) )?(?:task|job|goal|mission"
    r"|objective|instruction|order|command|aim|assignment|action|step|thing) (?:now |here )?"
    r"(?:is|will be) (?:for you )?to ",
    r"(?:you|the robot|robot|the arm|the robot arm|the agent|the gripper|the robotic arm) "
    r"(?:now |next |then )?(?:should|must|need to|needs to|have to|has to|ought to|can|could|may"
    r"|might|will|shall|are to|is to|are supposed to|is supposed to|are going to|want to|would) "
    r"(?:now |first |then |please )?(?!n't |not |never )",
    r"all (?:you|i want you|i need you) (?:need |have )?to do (?:is|now is) (?:to )?",
    r"(?:what )?i (?:want|need) (?:is )?for you to ",
    r"(?:start|begin|finish|continue|keep|keep on)(?: off)? (?:by |with )?(?=\w+ing )",
    r"(?:first of all|as a first step|to begin with|to start with|first off) ",
    r"(?:it's|that's) your (?:job|task|turn) to ",
    r"(?:see|check) if you can (?!see |find )",
    r"(?:do|does) (?:you|anyone|we) ",
    r"(?:are|is) (?:you|the robot) able to ",
    r"is there (?:any )?(?:way|chance) (?:you (?:could|can) |to )",
    r"if (?:you|it)(?:'re| are| is)? (?:don't mind|please|can|could|possible|not too much trouble"
    r"|wouldn't mind) ",
    r"you(?:'re| are) (?:going|supposed|asked|told|required) to |you'll ",
    r"(?:next|then|now|finally) you (?:should |can |must |need to |have to )?",
)
COURTESY = re.compile("|".join(f"(?:{courtesy})" for courtesy in _COURTESIES))
PLAN = re.compile(_PLAN)
# What follows is forbidden.
FORBIDDING = re.compile(
    r"(?:(?:you|robot|the robot|we) (?:cannot|can't|mustn't|shouldn't|must never|should never"
    r"|must not|may not|won't|should not|better not|are not to|aren't to|are not allowed to"
    r"|aren't allowed to|don't)|under no circumstances|in no case|on no account|no need to"
    r"|make sure (?:you )?(?:not to|don't|you don't)|be (?:careful|sure) not to|try not to"
    r"|take care not to|(?:i|we) don't want you to|please no"
    r"|(?:could|can|would|will) you (?:please )?(?:not|don't)|don't ever|never ever|don't you dare"
    r"|don't you|(?:don't|not to|don't even|never) (?:try|attempt|start|bother) (?:to|and)"
    r"|it(?:'s| is) (?:forbidden|dangerous|not allowed) to) "
)
# "I can't find the cup" asks for it.
MISSING = re.compile(
    r"(?:i|we) (?:can't|cannot|couldn't|could not|didn't|don't|haven't) "
    r"(?=(?:find|see|reach|get|spot) )"
)
MAX_WORDS = 14


def length(pattern: re.Pattern[str], sentence: list[str], start: int) -> int:
    """Return the number of words that a pattern matches from `start`; 0: no match."""
    match = pattern.match(" ".join(sentence[start : start + MAX_WORDS]) + " ")
    return match[0].count(" ") if match else 0
