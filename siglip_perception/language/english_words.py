"""The word lists behind the English rules. All lower case."""

from __future__ import annotations

from siglip_perception.types import Where


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Verbs that move something to a place: "put X on Y".
PLACING = _words(
    """
    put puts putting place placing set setting lay move moving drop dropping stack stacking pour
    pouring insert inserting return bring bringing carry hang throw toss slide push pull load
    store tuck transfer transport deposit dump position rest relocate lower pack stick attach
    mount plug align add leave send arrange sort assemble deliver take shift stow squeeze drag
    sweep pile line wheel hook screw dip plunk plop chuck nudge scoot shove stash bundle spread
    sprinkle spill pop stand wrap bury hide crack tie sit seat lean clip pin tape glue nail paste
    fasten strap balance prop park dock fix connect empties stuff bring-over
    """
)
# "take the cup on the table" does not take it there.
TAKING = _words("take taking bring bringing fetch")
# What stands before them is what goes to the place: "the banana goes into the bowl".
MOVING_ITSELF = _words("goes belongs ends fits fit lands flows falls")
# Verbs that act on something, or look for it.
ACTING = _words(
    """
    pick picking grab grabbing grasp grasping get getting hold holding lift lifting raise find
    finding fetch give giving hand pass show look looking see locate detect search point touch
    reach open close shut press turn rotate flip fold unfold wipe clean wash cut slice stir shake
    tap hit poke switch remove throw-away discard empty fill pinch follow track watch go come
    navigate drive walk head want need like use release let count identify check spot collect
    choose select keep help tell describe highlight segment mark knock unplug unload clear tidy
    swap exchange start stop avoid ignore inspect eat drink approach is are was were where
    where's what's which what who there's gimme pickup scoop unscrew twist tighten loosen water
    charge peel chop scrub rinse dry polish dust iron sew ring dial play pet feed catch kick bump
    lean tip tilt bend break crush smash swipe click hover rub scratch seal unlock lock unwrap
    unpack wake pause resume monitor scan read label name measure weigh compare examine explore
    trace retrieve obtain acquire transport separate divide rearrange reposition operate activate
    deactivate adjust inflate dispose throw-out snatch seize clutch steady clamp got took make do
    skip wait how bake cook boil grill fry mix whisk blend knead roll spin wind wave drill hammer
    saw paint draw write erase cover uncover stretch compress tug yank wiggle swirl drain refill
    heat cool freeze melt toast spray mop vacuum decorate build construct create disassemble
    detach disconnect extract eject recognize recognise observe view face orient direct aim guide
    lead chase circle protect guard repair mend replace substitute trade share
    """
)
# Also nouns or adjectives: content after a determiner or another content word.
AMBIGUOUS = _words(
    """
    can place set drop stack rest hand pass light open close press cut slice tap switch clean
    empty like show head watch check mark clear pack store load hang return slide plug squeeze
    pick lower shift sort fold start stop fill point track turn use spot count look stick send
    help hold leave add will might may mount grab lift push pull flip get shake wash sweep pile
    line wheel hook screw dip stand wrap spread scoop twist water charge peel chop dust iron ring
    dial play pet feed catch kick bump tip bend break pause resume monitor scan read label name
    measure trace clamp lock tie seat clip pin tape glue nail paste strap balance park dock fix
    cook mix roll spin wind wave drill hammer saw paint cover heat cool toast spray mop vacuum
    view face guide lead circle guard trade share blend draw sit lean dry make wait pop polish
    crush seal robot
    """
)
DETERMINERS = _words(
    """
    the a an this that these those my your his her its our their some any another each every all
    both no either other same one two three four five six seven eight nine ten first second third
    last next whole entire few several many
    """
)
PRONOUNS = _words(
    """
    it them me him us you i we he she they itself themselves mine yours myself yourself something
    anything everything someone everyone somewhere nothing y'all ya
    """
)
# Prepositions, and what else relates places. "of" is handled apart: "cup of coffee".
RELATIONS = _words(
    """
    on in into onto to at from under underneath beneath below above over behind beside besides
    near nearby between among inside outside within around against with without by through across
    off upon toward towards for along past atop amid amongst alongside opposite beyond via about
    out than as
    """
)
# Where something comes from: not where it goes.
FROM = _words("from off out with without about as than")
# They say where something goes, also beside another relation: "the cup on the table into the box".
GOAL = _words("to into onto toward towards closer nearer")
SEEKING = _words("look looking search reach")
# After a verb that takes no bare object, these lead to what it acts on: "look at the ball".
AIM = _words("at for to toward towards after")
# Nouns of place: relations before "of" ("top of"), dropped where nothing follows ("on the left").
SIDES = _words(
    """
    left right top bottom front back side middle center centre corner edge end rear edges corners
    sides leftmost rightmost topmost bottommost top-left top-right bottom-left bottom-right
    left-hand right-hand hand-side vicinity direction way closest nearest farthest furthest
    closer nearer far-left far-right
    """
)
# Sides that still describe the object when a noun follows: "top drawer", "back door".
DESCRIPTIVE_SIDES = _words("top bottom front back middle center side corner edge end rear")
# Parts of a thing, that stand for it: "touch the top of the bottle".
PARTS = _words("top bottom side corner edge end rear edges corners sides")
# What a side says of what it tells apart or relates.
WHERE_SIDE = {
    word: where
    for where, text in (
        (Where.LEFT, "left leftmost left-hand far-left top-left bottom-left"),
        (Where.RIGHT, "right rightmost right-hand far-right top-right bottom-right"),
        (Where.ABOVE, "top topmost"),
        (Where.BELOW, "bottom bottommost"),
        (Where.FRONT, "front"),
        (Where.BEHIND, "back rear"),
        (Where.MIDDLE, "middle center centre"),
        (Where.NEAR, "closest nearest closer nearer near"),
        (Where.FAR, "farthest furthest far"),
    )
    for word in text.split()
}
# What a preposition says of the phrase before it.
WHERE = {
    word: where
    for where, text in (
        (Where.ON, "on onto atop upon off"),
        (Where.IN, "in into inside within out"),
        (Where.BELOW, "under underneath beneath below"),
        (Where.ABOVE, "above over"),
        (Where.BEHIND, "behind beyond past"),
        (Where.NEAR, "beside besides near nearby next by close adjacent alongside around against"),
        (Where.NEAR, "at opposite from"),
        (Where.BETWEEN, "between among amid amongst"),
    )
    for word in text.split()
}
# "the largest cup": told apart by its size, which stays in the phrase.
SIZES = {
    word: where
    for where, text in (
        (Where.LARGEST, "largest biggest bigger larger tallest"),
        (Where.SMALLEST, "smallest smaller tiniest littlest"),
    )
    for word in text.split()
}
ORDINALS = {
    word: i for i, word in enumerate(["first", "second", "third", "fourth", "fifth"], start=1)
}
# More than one is meant.
SEVERAL = _words(
    """
    all both every each several many few two three four five six seven eight nine ten these those
    """
)
# Endings in s that are no plural: glass, chassis, cactus.
SINGULAR_S = ("ss", "is", "us")
ARTICLES = _words("the a an this that my your his her its our their")
# A word that no list knows and that begins a clause is a verb before one of these.
BEFORE_NOUNS = ARTICLES | _words(
    """
    these those some any both all it them me him us that two three four five six
    """
)
SUBJECTS = _words("i you we ya they lemme gonna wanna gotta then so and but or now also let's")
# Said of a thing, they are no part of its name: "is the bottle empty?".
PREDICATES = _words(
    """
    heavier lighter taller shorter longer cheaper better cleaner fuller empty full open opened
    closed shut clean dirty broken ready hot cold warm heavy light wet dry visible there here on
    off free available safe dangerous fragile stuck loose missing gone done
    """
)
# After a verb they belong to it: "turn on the lamp", "take off the lid".
PARTICLES = _words("up down away back out off on over together apart aside around")
ALWAYS_PARTICLES = _words("up down away together apart aside")
PARTICLE_VERBS = _words(
    """
    turn switch take pick throw put set get give bring clean wipe move hold
    """
)
# Right after any verb and not before "of" these belong to it: "pull out the drawer".
LOOSE_PARTICLES = _words("out off back")
# "bring over the bottle"; "put" and "move" leave these words their own sense.
OVER_VERBS = _words("turn switch knock hand bring pass come tip flip hold")
# They do not start a clause of their own after a noun: "the cup that is on the table".
COPULAS = _words("is are was were which who")
CONJUNCTIONS = _words("and or then but while after before until when if so because plus nor")
# Of no use to a phrase, and they end one.
FILLERS = _words(
    """
    please kindly now then gently carefully slowly quickly again here there just also too still
    very really exactly directly immediately be been being am do does did done don't doesn't not
    could would should shall will might may can can't cannot must have has had let's i'd i'm i'll
    you're it's that's why whose whom ok okay hey hi hello thanks thank currently standing lying
    sitting located placed resting called named visible anywhere everywhere whether maybe perhaps
    first finally afterwards afterward next once twice only even ready able sure far adjacent
    forward backward backwards forwards upright straight safely properly instead rather ever
    circumstances lemme wanna gonna gotta pls plz ahead rid inches inch cm mm centimeters
    centimetres millimeters millimetres meters metres degrees clockwise counterclockwise
    anticlockwise alright yo dude robot buddy um uh er hmm mind actually simply further farther
    thirsty hungry tired sorry whatever somehow slightly
    """
)
# What follows is not the thing to act on: "don't touch the knife", "the bowl, not the cup".
NEGATIONS = _words(
    """
    not never don't dont neither nor shouldn't mustn't won't isn't aren't doesn't didn't
    """
)
# Of these only a verb is negated; "not" is one of them after an auxiliary.
VERB_NEGATIONS = _words("never don't dont shouldn't mustn't won't didn't")
AUXILIARIES = _words("do does did must should may might will would could can shall")
# Before a gerund they forbid: "stop touching the plate", "refrain from touching the plate".
STOPPING = _words("stop quit refrain cease")
# They turn a negation round: "don't forget to pick up the cup".
REVERSING = _words("forget hesitate")
NEGATIVE_VERBS = _words("avoid ignore skip")
EXCEPTIONS = _words("except excluding")
# Before "but" they make an exception of it: "anything but the red cup".
EVERY = _words("any all every each anything everything")
NOTHING = _words("no none nothing")
# Followed by "to" they are relations: "close to the plate", "next to the plate".
BEFORE_TO = _words("next close adjacent near closer relative closest nearest nearer")
PROPERTIES = _words("color colour size shape kind sort")
# How far, how much: "a bit to the left", "fold it in half".
AMOUNTS = {
    ("a", "bit"),
    ("a", "look"),
    ("a", "little"),
    ("in", "half"),
    ("little", "bit"),
    ("tiny", "bit"),
} | {(word, name) for word in ("what", "by", "so", "which") for name in PROPERTIES}
COLORS = _words(
    """
    red orange yellow green blue purple violet white black pink brown grey gray gold silver beige
    """
)
# What the robot does it with: "with your left hand".
OWN_HANDS = _words("hand hands arm arms gripper grippers fingers")
YOURS = _words("your left right other both")
# Before a gerund of a listed verb: "would you mind passing", "by pressing".
BEFORE_LISTED_GERUNDS = _words("mind by after before while start keep try without avoid")
# What is left over names nothing: "throw out the rest".
REMAINDERS = _words("rest others remainder")
# Another verb can follow: "go grab the cup".
BEFORE_VERBS = _words("go come help let see keep start stop want need like going make do")
# What is seen so is not moved: "is the mug to the left of the plate?".
LOOKING = COPULAS | _words(
    """
    find finding locate see look looking detect identify search spot count check tell describe
    show point want need where where's what what's how there's like use help watch inspect
    """
)
# They mark a sentence as of another language in Latin letters, where no English verb is in it.
FOREIGN = _words(
    """
    la le les el los las il lo gli der die das den dem ein eine einen une un una uno du des del
    della et und y e sur auf dans sobre en de con mit avec sous unter het een op ko og och ang ke
    di dan atas na do da os as o w z i v
    """
)
