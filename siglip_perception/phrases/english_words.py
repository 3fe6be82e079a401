"""The word lists behind the English rules. All lower case."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Verbs that move something to a place: "put X on Y".
PLACING = _words(
    """
    put puts putting place placing set setting lay move moving drop dropping stack stacking
    pour pouring insert inserting return bring bringing carry hang throw toss slide push pull
    load store tuck transfer transport deposit dump position rest relocate lower pack stick
    attach mount plug align add leave send arrange sort assemble deliver take shift stow
    squeeze
    """
)
# Verbs that act on something, or look for it.
ACTING = _words(
    """
    pick picking grab grabbing grasp grasping get getting hold holding lift lifting raise find
    finding fetch give giving hand pass show look looking see locate detect search point touch
    reach open close shut press turn rotate flip fold unfold wipe clean wash cut slice stir
    shake tap hit poke switch remove throw-away discard empty fill pinch follow track watch go
    come navigate drive walk head want need like use release let count identify check spot
    collect choose select keep help tell describe highlight segment mark knock unplug unload
    clear tidy swap exchange start stop avoid ignore inspect eat drink approach is are was were
    where where's what's which what who there's
    """
)
# Also nouns or adjectives: content after a determiner or another content word.
AMBIGUOUS = _words(
    """
    can place set drop stack rest hand pass light open close press cut slice tap switch clean
    empty like show head watch check mark clear pack store load hang return slide plug squeeze
    pick lower shift sort fold start stop fill point track turn use spot count look stick send
    help hold leave add will might may mount grab lift push pull flip get shake wash
    """
)
DETERMINERS = _words(
    """
    the a an this that these those my your his her its our their some any another each every
    all both no either other same one two three four five six seven eight nine ten first second
    third last next whole entire few several many
    """
)
PRONOUNS = _words(
    """
    it them me him us you i we he she they itself themselves mine yours myself yourself
    something anything everything someone everyone somewhere nothing
    """
)
# Prepositions, and what else relates places. "of" is handled apart: "cup of coffee".
RELATIONS = _words(
    """
    on in into onto to at from under underneath beneath below above over behind beside besides
    near nearby between among inside outside within around against with without by through
    across off upon toward towards for along past atop amid amongst alongside opposite beyond
    via about out than as
    """
)
# Where something comes from: not where it goes.
FROM = _words("from off out with without about as than")
# They say where something goes, also beside another relation: "the cup on the table into the box".
GOAL = _words("to into onto toward towards")
# After a verb that takes no bare object, these lead to what it acts on: "look at the ball".
AIM = _words("at for to toward towards after")
# Nouns of place: relations before "of" ("top of"), dropped where nothing follows ("on the left").
SIDES = _words(
    """
    left right top bottom front back side middle center centre corner edge end rear edges
    corners sides leftmost rightmost top-left top-right bottom-left bottom-right left-hand
    right-hand hand-side vicinity direction way closest nearest farthest furthest
    """
)
# Sides that still describe the object when a noun follows: "top drawer", "back door".
DESCRIPTIVE_SIDES = _words("top bottom front back middle center side corner edge end rear")
# After a verb they belong to it: "turn on the lamp", "take off the lid".
PARTICLES = _words("up down away back out off on over together apart aside around")
ALWAYS_PARTICLES = _words("up down away together apart aside")
PARTICLE_VERBS = _words("turn switch take pick throw put set get give bring clean wipe move")
# They do not start a clause of their own after a noun: "the cup that is on the table".
COPULAS = _words("is are was were which who")
CONJUNCTIONS = _words("and or then but while after before until when if so because plus nor")
# Of no use to a phrase, and they end one.
FILLERS = _words(
    """
    please kindly now then gently carefully slowly quickly again here there just also too still
    very really exactly directly immediately be been being am do does did done don't doesn't
    not could would should shall will might may can can't cannot must have has had let's i'd
    i'm i'll you're it's that's how why whose whom ok okay hey hi hello thanks thank currently
    standing lying sitting located placed resting called named visible anywhere everywhere
    maybe perhaps first finally afterwards afterward next once twice only even ready able sure
    far adjacent forward backward backwards forwards upright straight safely properly
    instead rather ever circumstances
    """
)
# What follows is not the thing to act on: "don't touch the knife", "the bowl, not the cup".
NEGATIONS = _words(
    "not never don't dont neither nor shouldn't mustn't won't isn't aren't doesn't didn't"
)
# Of these only a verb is negated; "not" is one of them after an auxiliary.
VERB_NEGATIONS = _words("never don't dont shouldn't mustn't won't didn't")
AUXILIARIES = _words("do does did must should may might will would could can shall")
# They turn a negation round: "don't forget to pick up the cup".
REVERSING = _words("forget hesitate")
NEGATIVE_VERBS = _words("avoid ignore")
EXCEPTIONS = _words("except excluding")
# Before "but" they make an exception of it: "anything but the red cup".
EVERY = _words("any all every each anything everything")
NOTHING = _words("no none nothing")
# Followed by "to" they are relations: "close to the plate", "next to the plate".
BEFORE_TO = _words("next close adjacent near closer relative")
# They mark a sentence as of another language in Latin letters, where no English verb is in it.
FOREIGN = _words(
    """
    la le les el los las il lo gli der die das den dem ein eine einen une un una uno du des del
    della et und y e sur auf dans sobre en de con mit avec sous unter het een op ko og och ang
    ke di ke dan atas na do da os as o w z i v
    """
)
