"""The English lexicon: closed classes whole, and of verbs and nouns only what breaks a tie.

All lower case. A verb that is not listed is known by what follows it; a noun needs no list.
"""

from __future__ import annotations

from siglip_perception.types import Link


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Verbs that put something somewhere: "put X on Y".
PLACING = _words(
    """
    put place set lay move drop stack pour insert return carry hang throw toss slide push pull
    load store tuck transfer transport deposit dump position rest relocate lower pack stick
    attach mount plug align add leave send arrange sort assemble deliver shift stow squeeze
    drag pile line hook screw dip plunk plop chuck nudge scoot shove stash bundle spread
    sprinkle spill pop stand wrap bury hide crack tie sit seat lean clip pin tape glue nail
    paste fasten strap balance prop park dock fix connect stuff drape roll raise hoist suspend
    scatter drizzle fling sling nestle wedge slip slot thread string center centre heap file
    shelve plant smear slather dunk immerse submerge soak float lob hurl pitch unload empty
    install affix secure invert perch rearrange layer lodge kick bump bounce flick drip pipe
    ladle spoon shovel reposition keep feed scoop release tip tilt decant replace fit swing
    distribute blot fan tumble
    """
)
# "take the cup on the table" does not take it there.
TAKING = _words("take bring fetch get pick grab collect")
# What moves is the robot, or the thing that stands before the verb.
GOING = _words(
    """
    go come navigate drive walk head approach reach proceed travel step crawl advance roam sail
    run fly
    """
)
# What stands before them is what goes to the place: "the banana goes into the bowl".
MOVING_ITSELF = _words("go belong end fit land flow fall sit stand rest")
# What is only looked at, or spoken of, is moved nowhere.
LOOKING = _words(
    """
    peek find locate see look detect identify search spot count check tell describe show point
    want need use help watch inspect examine recognize recognise observe view track follow
    monitor scan read seek measure highlight segment label name have like be explore trace
    listen choose select
    """
)
# They take what they work with: "wipe the table with the sponge".
WORKING = _words(
    """
    wipe clean wash cut slice stir hit poke scoop unscrew tighten loosen chop scrub rinse dry
    polish dust sew hammer saw drill paint draw write erase cover fill mix whisk blend mash
    scrape sweep mop vacuum brush crush smash press push pull tap knock peel open close lock
    unlock fasten tie wrap clamp carve dig dab spray rub sand stab spear pierce prod nudge
    strike beat baste season sprinkle decorate garnish rake shovel comb iron sharpen grate
    grind mark trace cook flip turn rotate pry lift move hold squeeze water refill top load
    stuff line feed touch drag hook secure seal tape glue replace swap trade exchange charge
    measure weigh protect dilute smear coat glaze buff spread stack serve shave butter flatten
    roll soak
    """
)
# All the others that are known.
ACTING = _words(
    """
    brew gather group cluster blow ensure achieve prevent allow save improve pick grab grasp
    hold lift give hand pass touch shut press turn rotate flip fold unfold shake switch remove
    discard pinch reach let head start stop avoid ignore eat drink twist ring dial play pet
    catch tip tilt bend break swipe click hover scratch unwrap unpack wake pause resume compare
    retrieve obtain acquire separate divide operate activate deactivate adjust inflate dispose
    snatch seize clutch steady take make do skip wait bake boil grill fry toast knead spin wind
    wave uncover stretch compress tug yank wiggle swirl drain heat cool freeze melt build
    construct create disassemble detach disconnect extract eject face orient direct aim guide
    lead chase circle guard repair mend substitute share zip unzip button unbutton untie unhook
    unclip unfasten unclasp unlatch latch wring lend serve prepare set-up organize organise
    tidy clear finish begin continue try repeat undo redo leave empty light dim turn-on boot
    shut-down warm chill thaw unfreeze microwave steam simmer peel core pit squash juice mince
    dice julienne strain sift crumple tear rip shred snap crease straighten level lower raise
    wield swing juggle pluck harvest trim prune mow dismantle unroll uncork uncap cap recap
    unlid lid unstack unplug plug halt grip wrap prod sniff smell taste lick bite chew swallow
    sip pour dispense refresh reset reboot flush pump crank jiggle rattle squish crumble
    flatten smooth ruffle fluff hug kiss greet clap punch slap stamp staple perforate laminate
    print copy fax mail ship call text photograph film record mute unmute calibrate swap
    exchange trade tie wear don remember forget hurry relax relocate purge toggle engage
    disengage depress yield bring fetch get collect unseal unbox unravel untangle spool coil
    rewind rehang
    """
)
VERBS = PLACING | TAKING | GOING | LOOKING | WORKING | ACTING
# Nouns as well: after a determiner or another noun they are nouns.
NOUN_TOO = _words(
    """
    position approach step travel report request array cluster group sample test can place set
    drop stack rest hand pass light open close press cut slice tap switch clean empty like head
    watch check mark clear pack store load hang return slide plug lower shift sort fold start
    stop fill point track turn use spot count look stick mount flip sweep pile line hook screw
    dip stand wrap spread scoop twist water charge peel chop dust iron ring dial play pet feed
    catch kick bump tip bend break pause resume monitor scan read label name measure trace
    clamp lock tie seat clip pin tape glue nail paste strap balance park dock fix cook mix roll
    spin wind wave drill hammer saw paint cover heat cool toast spray mop vacuum view face
    guide lead circle guard trade share blend draw sit lean dry pop polish crush seal file
    plant string thread layer pipe ladle spoon shovel fan brush swing button zip latch cap lid
    core pit juice dice strain staple stamp print copy mail ship text film record pump crank
    comb rake sand coat butter season top level snap tear rip slot slip wedge heap bounce float
    pitch sling center centre knock run fly walk drive grip serve dab beat strike swirl drain
    grill steam warm chill microwave jam toggle trim yield smell taste bite sip hug kiss punch
    slap call reset squash finish mend exchange separate tidy smooth flush dim straighten
    divide stretch fit soak score rub scratch whisk grate sharpen buff shelve handle cup box
    bag book dish oil salt pepper pot bowl aim bundle mash steer back order wheel bottle dress
    gift spike bolt tin hose
    """
)
# Among those, first in a sentence and before a bare noun: "water bottle", "tape measure".
NOUN_FIRST = _words(
    """
    can hand water iron drill glue hammer tape paint light watch plug dust ring saw nail pin
    screw clip hook mop brush comb oil salt pepper book dish drink box bag pot bowl cup cap lid
    label pet string thread pipe ladle spoon shovel fan button juice stamp text film pump sand
    coat butter plant file seat head face name toast spray vacuum guide rake core microwave tin
    wheel bottle gift squash steam jam stick hose handle plate track record wind spot back
    order rest
    """
)
NOUN_TOO |= NOUN_FIRST
# With one of these they make one name: "water bottle", "glue gun"; else they are verbs.
COMPOUND_HEADS = _words(
    """
    bottle bottles cup cups can cans box boxes brush brushes holder opener bulb bulbs bit bits
    stick sticks gun measure roll rolls bag bags bowl bowls pan pot pots dispenser jug glass
    glasses mug towel towels soap case board boards shelf stand rack tray knob switch handle
    cap lid jar jars container tool tools pad tank tap filter hose cooker mill shaker kit set
    head cable strap tin packet pen hook washer cleaner mat cloth grinder press drive bucket
    carton pack paper key keys keyboard screen end table light lamp cover book books player
    machine fountain pistol melon house wash sanitizer cart truck driver bar plate plates rod
    ball balls pin clip ring rings cutter knife spoon fork server drainer rest stop post tube
    pipe pump spray dish sauce cream tree cake
    """
)
# They are never the first verb of an order.
AUXILIARIES = _words(
    """
    is are was were am be been being do does did can could will would shall should may might
    must has had isn't aren't wasn't ain't it's that's he's she's there's here's what's where's
    who's how's i'm you're we're they're i've you've we've i'd i'll you'll we'll let's lets
    """
)
COPULAS = _words("is are was were be been being it's that's isn't aren't 's")
MODALS = _words("can could will would shall should may might must gotta gonna wanna")
IRREGULAR = {
    "put": "put",
    "took": "take",
    "taken": "take",
    "held": "hold",
    "left": "leave",
    "laid": "lay",
    "lying": "lie",
    "lies": "lie",
    "lie": "lie",
    "hung": "hang",
    "hidden": "hide",
    "stuck": "stick",
    "broken": "break",
    "tied": "tie",
    "made": "make",
    "gave": "give",
    "given": "give",
    "kept": "keep",
    "sat": "sit",
    "stood": "stand",
    "got": "get",
    "gimme": "give",
    "pickup": "pick",
    "dropoff": "drop",
    "goes": "go",
    "going": "go",
    "went": "go",
    "found": "find",
    "lost": "lose",
    "forgot": "forget",
    "brought": "bring",
    "thrown": "throw",
    "worn": "wear",
    "cut": "cut",
    "set": "set",
    "shut": "shut",
    "fallen": "fall",
    "fell": "fall",
    "lit": "light",
    "said": "say",
    "meant": "mean",
    "saw": "see",
}
ARTICLES = _words("the a an")
DEMONSTRATIVES = _words("this that these those")
POSSESSIVES = _words("my your his her its our their whose")
QUANTIFIERS = _words(
    """
    some any another each every all both either neither no several few many much whole entire
    enough more most half various numerous multiple
    """
)
DETERMINERS = ARTICLES | DEMONSTRATIVES | POSSESSIVES | QUANTIFIERS
NUMBERS = {
    word: number
    for number, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ]
    )
} | {
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "ninety": 90,
    "hundred": 100,
    "dozen": 12,
}
ORDINALS = {
    word: number
    for number, words in enumerate(
        (
            "first 1st",
            "second 2nd",
            "third 3rd",
            "fourth 4th",
            "fifth 5th",
            "sixth 6th",
            "seventh 7th",
            "eighth 8th",
            "ninth 9th",
            "tenth 10th",
        ),
        start=1,
    )
    for word in words.split()
}
SEVERAL = _words(
    "all both every each several few many two three four five six seven eight nine ten"
)
# They stand for something that has been named.
ANAPHORS = _words("it them they these those this that itself themselves")
# People, and what is no thing.
PERSONS = _words(
    """
    me him her us you i we he she myself yourself someone somebody everyone everybody anyone
    anybody y'all ya himself herself ourselves
    """
)
SUBJECTS = _words("i you we he she they it there this that someone somebody everyone nobody")
EMPTY_NOUNS = _words(
    """
    something anything everything nothing somewhere rest remainder others one ones thing's way
    task job action command instruction turn try look favor favour kind mine yours hers theirs
    ours none time times place care caution force pressure speed pace direction directions
    angle order halves half quarters pieces piece-by-piece circle circles row rows line lines
    motion manner amount bit lot lots silence reverse movement position reach view sight air
    mind hurry question whatever whichever sense point opinion heart luck idea help thanks fun
    degrees circumstances circumstance step steps advance addition total average general
    particular fact case stages detail
    """
)
# What the robot does it with.
BODY = _words(
    """
    hand hands arm arms gripper grippers finger fingers fingertip fingertips palm palms thumb
    end-effector effector claw fist wrist elbow robot
    """
)
TIMES = _words(
    """
    second seconds sec secs minute minutes min mins hour hours moment moments while day days
    night nights morning evening afternoon noon midnight week weeks month months year years
    today tomorrow tonight now later breakfast lunch dinner supper brunch dessert snack
    christmas weekend beginning end start s ms instant
    """
)
DAYS = _words(
    """
    morning evening afternoon night noon midnight today tomorrow tonight yesterday weekend week
    weeks monday tuesday wednesday thursday friday saturday sunday mondays fridays sundays
    mornings evenings
    """
)
UNITS = _words(
    """
    degree degrees deg radian radians time times inch inches in foot feet ft yard yards cm mm m
    km centimeter centimeters centimetre centimetres millimeter millimeters millimetre
    millimetres meter meters metre metres percent second seconds sec secs minute minutes min
    mins hour hours ms turn turns rotation rotations revolution revolutions step steps notch
    notches click clicks lap laps circle circles bit bits tad little way moment while day days
    s spins spin round rounds millisecond milliseconds more pm am o'clock
    """
)
# Of these something is measured out: "200 ml of water".
MEASURES = _words(
    """
    ul µl nl mg ml milliliter milliliters millilitre millilitres l liter liters litre litres g
    gram grams kg kilogram kilograms kilo kilos oz ounce ounces lb lbs pound pounds gallon
    gallons
    """
)
# "a piece of bread" is bread told by its form; "a few of the cups" counts them.
COUNTING = _words(
    """
    all each both one two three four five six seven eight nine ten some any most many few
    several none half couple lot lots plenty bit little rest majority another either neither
    much part
    """
)
DIRECTIONS = _words(
    """
    left right up down forward forwards backward backwards back clockwise counterclockwise
    anticlockwise counter-clockwise anti-clockwise inward inwards outward outwards upward
    upwards downward downwards sideways upright straight leftward leftwards rightward
    rightwards away diagonally horizontally vertically flat over halfway overhead ahead
    inside-out upside-down cw ccw north south east west around face-up face-down further
    farther
    """
)
# What a thing is once it has been acted on: "push the drawer closed".
STATES = _words(
    """
    vertical horizontal closed shut open opened clean dry flat empty full upright straight ajar
    level apart together ready free loose tight smooth wide halfway safe straightened neat tidy
    firm steady lengthwise crosswise separate separated intact untouched
    """
)
# Said of a thing, they are no part of its name: "is the bottle empty?".
PREDICATES = STATES | _words(
    """
    heavier lighter taller shorter longer cheaper better cleaner fuller dirty broken hot cold
    warm heavy light wet visible there here on off available dangerous fragile stuck missing
    gone done full ripe sharp sticky messy greasy dusty slippery hungry thirsty tired cool
    empty crowded hard soft delicious red green blue yellow black white orange purple pink
    """
)
PARTICLES = _words(
    """
    up down away back out off on over in together apart aside around along through forward
    forwards backward backwards ahead under by about home across inside
    """
)
# They belong to the verb before them wherever no noun phrase can be theirs.
ALWAYS_PARTICLES = _words("up down away together apart aside back forward forwards ahead backward")
# "turn on the lamp": verb and particle, where a preposition could stand as well.
PHRASAL = frozenset(
    tuple(pair.split("-"))
    for pair in [
        "turn-on",
        "turn-off",
        "turn-over",
        "turn-around",
        "turn-in",
        "switch-on",
        "switch-off",
        "plug-in",
        "take-off",
        "take-out",
        "put-on",
        "put-out",
        "pull-out",
        "pull-off",
        "pull-over",
        "push-in",
        "push-over",
        "knock-over",
        "tip-over",
        "flip-over",
        "hand-over",
        "bring-over",
        "bring-in",
        "pass-over",
        "roll-over",
        "roll-out",
        "slide-out",
        "wring-out",
        "pour-out",
        "fill-in",
        "shut-off",
        "shut-in",
        "lay-out",
        "point-out",
        "let-out",
        "throw-out",
        "toss-out",
        "cut-off",
        "cut-out",
        "tear-off",
        "peel-off",
        "break-off",
        "break-in",
        "wash-off",
        "rinse-off",
        "rinse-out",
        "wipe-off",
        "clean-out",
        "clean-off",
        "dust-off",
        "brush-off",
        "empty-out",
        "dump-out",
        "scoop-out",
        "blow-out",
        "blow-off",
        "screw-on",
        "screw-in",
        "screw-off",
        "click-on",
        "twist-off",
        "twist-on",
        "pop-off",
        "pop-out",
        "fold-over",
        "fold-in",
        "press-in",
        "hold-out",
        "hold-on",
        "lift-off",
        "lift-out",
        "kick-over",
        "push-off",
        "push-out",
        "set-out",
        "stretch-out",
        "spread-out",
        "smooth-out",
        "flatten-out",
        "start-up",
        "zip-on",
        "pick-out",
        "sort-out",
        "figure-out",
        "check-out",
        "find-out",
        "look-over",
        "carry-over",
        "move-over",
        "come-over",
        "tuck-in",
        "clip-on",
        "clip-off",
        "snap-on",
        "snap-off",
        "strap-in",
        "strap-on",
        "reel-in",
        "let-in",
        "dial-in",
        "rub-out",
        "wear-out",
        "dry-off",
        "dry-out",
        "light-up",
        "flick-on",
        "flick-off",
        "toggle-on",
        "toggle-off",
        "bring-out",
        "send-out",
        "get-out",
        "slip-on",
        "slip-off",
        "throw-on",
        "keep-on",
        "leave-on",
        "leave-off",
        "power-on",
        "power-off",
        "leave-out",
        "shake-off",
        "shake-out",
        "squeeze-out",
        "mix-in",
        "stir-in",
        "sweep-out",
        "swap-out",
        "drain-out",
        "drain-off",
        "put-in",
        "push-on",
        "drop-off",
        "stop-off",
        "lift-over",
        "tilt-over",
        "drag-over",
        "spin-around",
        "click-off",
        "move-on",
    ]
)
# Left out after these the object is what is meant: "put in the box" puts it there.
NOT_BEFORE_PLACES = frozenset([("put", "in"), ("put", "on"), ("move", "on"), ("push", "on")])
# Prepositions and what they say. None: what follows is no place.
PREPOSITIONS: dict[str, Link | None] = {
    word: link
    for link, text in (
        (Link.ON, "on onto upon atop"),
        (Link.IN, "in into inside within"),
        (Link.UNDER, "under underneath beneath below"),
        (Link.ABOVE, "above over"),
        (Link.BEHIND, "behind beyond"),
        (Link.NEXT_TO, "beside next by adjacent alongside"),
        (Link.NEAR, "near nearby close around-here"),
        (Link.BETWEEN, "between among amid amongst"),
        (Link.AROUND, "around"),
        (Link.AGAINST, "against"),
        (Link.TO, "to toward towards at opposite"),
        (Link.FROM, "from off out"),
        (Link.WITH, "with using"),
        (
            None,
            "across along through past for of about as than without like per during despite "
            "except versus outside via",
        ),
    )
    for word in text.split()
}
# They say where something goes, also beside another relation: "the cup on the table into the box".
GOAL = _words("to into onto toward towards")
# Before a preposition they only grade it: "right next to", "back into", "over to".
GRADES = _words(
    """
    right just directly immediately exactly straight somewhere anywhere back over down up out
    completely fully partially halfway far slightly well all close deep deeper very too so
    so-far way further farther almost nearly precisely squarely firmly gently neatly carefully
    safely
    """
)
# The sides of a thing, of a picture, or of a motion.
SIDES: dict[str, Link | None] = {
    word: link
    for link, text in (
        (Link.LEFT_OF, "left leftmost left-hand far-left lefthand"),
        (Link.RIGHT_OF, "right rightmost right-hand far-right righthand"),
        (Link.ON, "top surface"),
        (Link.UNDER, "bottom underside foot base"),
        (Link.IN_FRONT_OF, "front"),
        (Link.BEHIND, "back rear"),
        (Link.IN, "inside interior"),
        (Link.NEXT_TO, "side sides edge edges corner corners end ends rim border outside"),
        (Link.NEAR, "vicinity direction proximity"),
        (Link.BETWEEN, "middle center centre"),
    )
    for word in text.split()
}
SIDE_NOUNS = _words(
    """
    side sides edge edges corner corners end half part portion section area hand-side hand row
    of-it space spot region direction
    """
)
# Which of several: what a selector says, before its noun or after it ("on the left").
SELECTORS = {
    word: which
    for which, text in (
        ("left", "left leftmost left-hand far-left lefthand left-most"),
        ("right", "right rightmost right-hand far-right righthand right-most"),
        ("middle", "middle center centre central middlemost center-most"),
        ("front", "front frontmost foremost"),
        ("back", "back rear backmost rearmost hindmost"),
        ("top", "topmost uppermost highest top-most"),
        ("bottom", "bottommost lowest lowermost bottom-most"),
        ("largest", "largest biggest bigger larger tallest taller longest longer"),
        ("smallest", "smallest smaller tiniest littlest shortest shorter"),
        ("nearest", "nearest closest nearer closer near"),
        ("farthest", "farthest furthest farther further far"),
        ("last", "last final"),
        ("other", "other remaining"),
    )
    for word in text.split()
}
# Where a noun follows they name a part and stay: "top drawer".
KEPT_SELECTORS = _words("top bottom upper lower")
COLORS = _words(
    """
    red orange yellow green blue purple violet white black pink brown grey gray gold silver
    beige golden cyan magenta turquoise teal navy maroon transparent clear dark light striped
    """
)
ADJECTIVES = COLORS | _words(
    """
    big small large little tiny huge tall short long wide narrow thick thin round square flat
    heavy wooden plastic metal metallic glass ceramic paper rubber leather steel cardboard
    fluffy soft hard empty full open closed dirty clean wet dry hot cold new old broken ripe
    fresh cooked raw sharp dull shiny colorful colored spotted dotted rectangular circular
    triangular cylindrical curved bright folded crumpled frozen sliced chopped peeled rotten
    toy
    """
)
# What follows is not the thing to act on: "don't touch the knife", "the bowl, not the cup".
NEGATIONS = _words(
    """
    not never don't dont neither nor shouldn't mustn't won't doesn't didn't cannot can't
    without
    """
)
NEGATIVE_VERBS = _words("avoid ignore skip refrain cease exclude disregard omit")
EXCEPTIONS = _words("besides except excluding excepting minus barring")
CONJUNCTIONS = _words("and or then but nor plus &")
# Of no use to a phrase, and they end one.
FILLERS = _words(
    """
    such please kindly now then again here there just also too still really instead rather ever
    maybe perhaps finally afterwards afterward once twice thrice only even okay ok hey hi hello
    thanks thank pls plz alright yo dude buddy um uh er hmm well so actually simply somehow
    today tonight tomorrow already always first next soon asap anymore yet quick slow nice
    quickly slowly gently yes no yeah right-now sorry sir ma'am everybody folks together
    upright altogether alone apart properly thoroughly likewise otherwise meanwhile oh ah
    and-then lemme quite very almost whether anywhere immediately individually thereafter
    anyway besides though however great good perfect cool everywhere whenever wherever
    somewhere somewhat
    """
)
# Endings in s that are no plural: glass, chassis, cactus.
SINGULAR_S = ("ss", "is", "us")
NO_ADVERBS = _words(
    """
    jelly belly lily fly butterfly doily family assembly trolley curly woolly wooly wobbly
    bubbly smelly july ply friendly early only ugly silly holly rally ally bully gully jolly
    dolly folly daily reply supply monopoly italy anomaly lovely lonely homely elderly oily
    wrinkly prickly squiggly cuddly firefly dragonfly multiply apply potbelly underbelly likely
    """
)
# Tools: "with the tongs" is how, "with the lid" is which.
TOOLS = _words(
    """
    spoon fork knife spatula tongs tong sponge cloth towel brush stick tool tweezers pliers
    chopsticks ladle scissors hammer screwdriver wrench rag mop broom glove gloves magnet hook
    napkin tissue key drill saw pen pencil marker paintbrush roller whisk peeler opener
    can-opener shovel scoop rake net rope string tape wipe wipes duster vacuum squeegee
    scrubber mitt mitts stylus plunger syringe dropper pipette ruler razor blade chisel soap
    detergent cleaner spray eraser potholder oven-mitt suction tray cutter grabber pincers
    pincer clamp straw
    """
)
# What a thing may have on it: "the cup with a blue lid".
PARTS = _words(
    """
    lid lids cap handle handles stripe stripes label labels logo dot dots pattern flower
    flowers rim base spout hole holes leg legs wheel wheels button buttons picture print text
    letter letters number spots spot top bottom edge edges lines stem leaves sticker tag zipper
    pocket pockets face tail ears hat hair bow ribbon design drawing crack corner corners mark
    marks
    """
)
# "turn the knob until it clicks", "because it is hot": no thing of theirs is asked for.
ASIDES = _words("until till til because since so unless although though whereas lest as")
WHEN = _words("if when once after before whenever while whilst")
QUESTIONS = _words("what which who whom whose where when why how what's where's who's how's")
WHEN_DONE = _words("finished done needed necessary possible complete completed ready required")
GREETED = _words("robot robo buddy dude bot assistant friend sir helper siri alexa")
FOREIGN = _words(
    """
    la le les el los las il lo gli der die das den dem ein eine einen une un una uno du des del
    della et und y e sur auf dans sobre en de con mit avec sous unter het een op ko og och ang
    ke di dan atas na da os w z v por para su al
    """
)
# They mark a sentence as English, whatever else is in it.
ENGLISH = _words(
    """
    the and of with from into onto my your you please this that these is are it where what
    could would can need want i get give some an
    """
)
# What is put on is worn, or closes something: "put on the gloves".
WORN = _words(
    """
    glove gloves hat coat jacket shoe shoes sock socks mask helmet apron shirt glasses goggles
    lid cap cover scarf boots boot vest headphones seatbelt watch ring necklace makeup
    sunglasses kettle
    """
)
# They stay where they are when they are pushed: what lies next to them tells them apart.
FIXED = _words(
    """
    plug plugs cord cords cable cables button buttons switch switches knob knobs lever levers
    handle handles doorbell pedal trigger
    """
)
PROPERTIES = _words(
    """
    color colour size shape kind sort type
    """
)
IS = _words(
    """
    is are sits stands
    """
)
CONTRACTED = _words(
    """
    i'm you're we're they're i've you've we've it's that's he's she's there's here's i'd i'll
    we'll we'd they've
    """
)
WISHES = _words(
    """
    want need like mean say love wish
    """
)
MOVES = _words(
    """
    go goes belong belongs fit fits ends lands flows falls
    """
)
# Verb or noun after "and" with nothing behind it: "pick up the bottle and shake".
LONELY = _words(
    """
    shake stir wash mix release wait stop lift rinse squeeze drain return
    """
)
OPENING = _words(
    """
    slide pull push swing crack flip pop pry get
    """
)
MAKING = _words(
    """
    let make help have see watch try
    """
)
MINDING = _words(
    """
    avoid keep maintain ensure make hold leave
    """
)
BECOMING = _words(
    """
    get make keep turn paint leave have heat
    """
)
NAMES_TOO = _words(
    """
    stand switch mount seal slice roll dip wrap spread shake strap lock tie tap clamp set pile
    stack bundle slide swing lift load pack can cup plate bowl bottle handle button hook bolt
    file
    """
)
# Fillers that describe a thing after a determiner: "the cool drink".
DESCRIBING = _words(
    """
    nice slow quick great good perfect cool lovely upright
    """
)
DEGREES = _words(
    """
    very really extremely fairly pretty quite super
    """
)
PURPOSES = _words(
    """
    used meant made designed intended needed suited
    """
)
NAMING = _words(
    """
    called labeled labelled marked named titled made filled full covered topped wrapped
    decorated coated
    """
)
BEFORE_SIDES = _words(
    """
    on in at to toward towards from by onto into near along
    """
)
SIDE_MODIFIERS = _words(
    """
    far very other same extreme opposite immediate outer inner upper lower front back top
    bottom left right exact near
    """
)
AFTER_NAMES = _words(
    """
    left right middle center leftmost rightmost
    """
)
PARTS_SAID = _words(
    """
    position positions location locations place places middle center rest
    """
)
PART_SIDES = _words(
    """
    edge edges corner corners end ends rim border surface base foot
    """
)
MOVING_FORMS = _words(
    """
    go goes belong belongs fit fits ends lands flows falls needs has have wants
    """
)
COMPARED = _words(
    """
    leftmost rightmost biggest bigger larger largest smallest smaller nearest closest farthest
    furthest tallest shortest longest topmost last first
    """
)
PARTICIPLES = _words(
    """
    taken held hung hidden stuck broken tied made given kept thrown worn fallen lit found lost
    laid lying left set
    """
)
NAMING_PREPOSITIONS = _words(
    """
    for like about
    """
)
SEEKING = _words(
    """
    look search reach go hunt ask head grope dig check need get watch want
    """
)
LOTS = _words(
    """
    couple lot lots few bit plenty handful number bunch dozen most majority
    """
)
SINGLE_UNITS = _words(
    """
    bit tad moment minute second inch degree while little notch meter metre foot hour day lot
    centimeter centimetre cm mm fraction smidge touch
    """
)
NEVER_THINGS = _words(
    """
    something anything everything nothing somewhere way direction directions times time job
    task
    """
)
BODY_WORDS = _words(
    """
    left right your robot robotic end both open free other first one own
    """
)
MANNERS = _words(
    """
    fashion style circumstances half halves quarters thirds pieces slices strips circle circles
    row rows line lines order care caution motion direction directions way manner speed pace
    place position silence force pressure color colors colour colours size sizes shape shapes
    type hand hands foot itself turn turns sequence pairs two three four total general detail
    reverse unison parallel advance time times side pyramid tower triangle accident mistake
    name number weight height material category alphabetical diagonal angle air degrees halfway
    step steps layers mind middle ease pile stack stacks heap bundle ball
    """
)
ALWAYS_MANNERS = _words(
    """
    fashion style stack row pile heap shape circle circumstances motion direction directions
    manner speed pace way order care caution position force pressure sequence angle line
    orientation half halves pieces
    """
)
HOLDING = _words(
    """
    move lift hold
    """
)
TURNING = _words(
    """
    turn press push pull open close touch knock move lift hold flip rotate
    """
)
FILLING = _words(
    """
    fill load stuff top line cover refill coat season charge decorate set
    """
)
TO_TARGET = _words(
    """
    point listen respond attend
    """
)
LIGHT = _words(
    """
    give do make have take
    """
)
TOUCHING = _words(
    """
    press push pull tap open close touch knock lift hold turn move take
    """
)
CLOSING = _words(
    """
    close shut lock seal cover
    """
)
PATHS = _words(
    """
    through across along past
    """
)
SETTING = _words(
    """
    put place set lay stand drop leave position rest park
    """
)
HOVERING = _words(
    """
    hover stop wait stay float park turn hold halt land
    """
)
AIMED = _words(
    """
    press knock point tap hold push pull attend listen touch cling
    """
)
RESULTS = _words("hot cold warm wet dirty ready red green blue yellow white black soft crispy")
# What follows "if" after these is asked about: "check if the stove is off".
CHECKING = _words("check see tell verify confirm ensure look know find say ask")
# They lead along something that has no preposition: "go up the stairs".
WALKING = _words("go come walk drive climb run travel move")
# "give the dog a bone": the first noun is who gets it.
GIVING = _words("give hand pass bring feed show offer throw toss send serve lend fetch get")
# "into a stack" is how, "on the stack" where to.
SHAPES = _words(
    """
    stack pile pyramid tower circle row line ball bundle heap triangle stacks pieces slices
    strips
    """
)
DEFINITE = _words("the that this your my its")
BEFORE_MANNERS = _words("in by into with at to on under")
# "the edge of the table", and after "on", "in", "at": "the back of the chair".
SIDE_PARTS = _words("surface base foot border edge edges corner corners end ends rim underside")
FACES = _words("side sides back rear front bottom")
# "the back door" is a door of its own kind, and not one of several.
BUILT = _words(
    """
    desk door doors doorbell yard pocket pockets seat seats wheel wheels garden porch gate office
    room cover page panel entrance exit bumper window windows wall lawn light lights brake gear
    stairs step steps stage teeth leg legs pack support burner
    """
) - {"burner"}
# What is left, as the rest is acted on: "but leave the cups".
LEAVING = _words("leave keep spare")
FIXING = _words("tape glue attach stick fasten pin clip nail screw staple paste mount tie strap")
# Where it is done: "warm the bread in the oven", "hold the flask above the burner".
WORKED_AT = _words(
    """
    heat warm boil melt cook bake fry toast grill simmer steam microwave roast reheat broil poach
    brew cool chill freeze thaw dry rinse wash soak drill hold hang stick draw write carve knead
    build construct engrave print stamp punch dissolve wait assemble make cut slice chop dice
    grate mince sift sketch mash crush grind
    """
)
# They make a shape of what they work on: "draw a circle", "carve a notch".
SHAPING = _words("draw paint trace carve cut drill sketch write punch make build form")
# What stands "with" something after these has it: "pick up the cup with a lid".
AS_IS = (
    TAKING | LOOKING | GOING | _words("give hand pass show open close press lift touch hold turn")
) - {"use", "measure", "help", "follow"}
WITH_MATERIAL = _words(
    """
    wrap pack load stuff spread bury attach fix assemble smear tie bundle connect fasten nail
    replace line secure strap glue screw prop slather tape paste feed install hang balance plug
    sprinkle scatter drizzle pin clip pile file scrub blot soak spike block mend
    """
)
# "the bottom right corner of the board" is a part of it, and not under it.
CORNERS = _words("corner corners edge edges end ends area region")
