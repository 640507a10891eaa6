"""The cue phrases of the generated corpus: what an emotion looks and sounds like, in words.

Every phrase continues a singular subject ("The man …"). There are two disjoint sets of paraphrases:

* `ANNOTATOR_CUES`: what cold-start annotators write, hence what the policy learns to write and the oracle judge reads.
* `VERIFIER_CUES`: what stage 2 trains the verifier on; each phrase is one of the openings joined to one of the endings.

The sets share emotion-bearing words ("frown", "tears", "trembling") but no sentence, so a verifier must generalise from
one to the other and can be wrong. No annotator phrase names an emotion class.
"""

from typing import Literal

Channel = Literal["face", "voice", "body"]

ANNOTATOR_CUES: dict[str, dict[Channel, tuple[str, ...]]] = {
    "anger": {
        "face": (
            "frowns hard with lowered brows",
            "glares with narrowed eyes",
            "clenches the jaw and bares the teeth",
        ),
        "voice": (
            "shouts in a loud harsh voice",
            "speaks fast with a hard furious tone",
            "snaps at every word and raises the volume",
        ),
        "body": ("leans forward with clenched fists", "points with a stiff finger"),
    },
    "disgust": {
        "face": (
            "wrinkles the nose in a grimace",
            "curls the upper lip",
            "squints and twists the mouth",
        ),
        "voice": (
            "groans with a thick gagging sound",
            "speaks in a low choked voice",
            "lets out a sickened moan",
        ),
        "body": ("turns away and covers the nose", "pushes the smell away with one hand"),
    },
    "fear": {
        "face": (
            "stares with wide eyes and tense brows",
            "stretches the lips in a trembling line",
            "looks pale with frozen eyes",
        ),
        "voice": (
            "speaks in a high trembling voice",
            "screams with a thin shaking tone",
            "whispers with quick scared breaths",
        ),
        "body": ("shrinks back and freezes", "hides behind both hands"),
    },
    "happiness": {
        "face": (
            "smiles with raised cheeks",
            "shows a broad grin with bright eyes",
            "beams with the mouth corners pulled up",
        ),
        "voice": (
            "laughs in a bright lively voice",
            "speaks with a warm singing tone",
            "chuckles between cheerful words",
        ),
        "body": ("claps and bounces on both feet", "dances with open arms"),
    },
    "neutral": {
        "face": (
            "keeps a relaxed face without movement",
            "looks ahead with a calm even gaze",
            "shows calm brows and relaxed lips",
        ),
        "voice": (
            "keeps a level flat tone",
            "speaks at a steady ordinary pace",
            "talks in a plain even voice",
        ),
        "body": ("stands still with loose arms", "sits upright without gestures"),
    },
    "sadness": {
        "face": (
            "lowers the eyes with tears",
            "lets the mouth corners droop",
            "raises the inner brows above wet eyes",
        ),
        "voice": (
            "speaks slowly in a low sobbing voice",
            "cries with a weak broken tone",
            "sobs between long pauses",
        ),
        "body": ("hangs the head and slumps", "wipes the wet cheeks with a sleeve"),
    },
    "surprise": {
        "face": (
            "raises both brows and drops the jaw",
            "opens the mouth in a round shape",
            "blinks with round astonished eyes",
        ),
        "voice": (
            "gasps with a sudden jump in pitch",
            "cries out in one short burst",
            "asks again with a rising pitch",
        ),
        "body": ("jumps up with lifted hands", "stops short and spins around"),
    },
    "contempt": {
        "face": (
            "lifts one corner of the mouth in a smirk",
            "rolls the eyes",
            "sneers with half closed lids",
        ),
        "voice": (
            "scoffs with a slow mocking tone",
            "speaks in a cold dismissive drawl",
            "snorts between sarcastic words",
        ),
        "body": ("crosses the arms and leans back", "waves the other person off"),
    },
    "anxiety": {
        "face": (
            "bites the lip with restless eyes",
            "glances left and right",
            "blinks fast with a worried brow",
        ),
        "voice": (
            "stammers over hurried words",
            "speaks in an uneven strained voice",
            "swallows and repeats the same words",
        ),
        "body": ("fidgets with the fingers", "shifts from foot to foot"),
    },
    "helplessness": {
        "face": (
            "looks up with pleading eyes",
            "shakes the head with a slack mouth",
            "gazes around with a lost look",
        ),
        "voice": (
            "begs in a thin fading voice",
            "lets each sentence trail off",
            "pleads with a hollow tone",
        ),
        "body": ("drops both arms with open palms", "shrugs and sinks to the floor"),
    },
    "disappointment": {
        "face": (
            "closes the eyes and presses the lips",
            "looks down as the smile fades",
            "turns the gaze away with a wry mouth",
        ),
        "voice": (
            "exhales a long tired sigh",
            "speaks in a dull sinking voice",
            "mutters as the tone falls",
        ),
        "body": ("lets the shoulders drop", "lowers the chin and walks off"),
    },
}
"""Emotion → channel → phrases of the annotator set."""

VERIFIER_CUES: dict[str, dict[Channel, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "anger": {
        "face": (
            ("frowns deeply", "glares straight ahead", "bares clenched teeth", "clenches the teeth"),
            ("with a tight jaw", "under lowered brows", "with narrowed eyes", "and glares with a hard frown"),
        ),
        "voice": (
            ("shouts loudly", "snaps at the listener", "uses a harsh tone", "speaks fast and loud"),
            (
                "with a hard stress on every word",
                "and raises the voice",
                "at a furious volume",
                "in a harsh loud shout",
            ),
        ),
        "body": (
            ("pounds the table", "shakes a stiff finger", "steps forward", "leans over the table"),
            ("with clenched fists", "in a furious way", "with tight arms", "and points at the listener"),
        ),
    },
    "disgust": {
        "face": (
            ("has a wrinkled nose", "curls the lip", "makes a grimace", "squints at the smell"),
            ("with a twisted mouth", "at the foul smell", "and squints", "and twists the upper lip"),
        ),
        "voice": (
            ("gags and coughs", "groans in revulsion", "makes a sickened sound", "lets out a choked groan"),
            ("with a thick voice", "as if choked", "at the foul taste", "with a low sickened moan"),
        ),
        "body": (
            ("pushes the plate away", "covers the nose", "turns away", "pushes the foul air aside"),
            ("with a gagging cough", "in revulsion", "from the smell", "with one hand over the nose"),
        ),
    },
    "fear": {
        "face": (
            ("has frozen wide eyes", "stares in terror", "turns pale", "looks frozen"),
            ("with trembling lips", "with tense brows", "as if in danger", "with wide pale eyes and stretched lips"),
        ),
        "voice": (
            ("screams in terror", "whispers with a trembling voice", "speaks in scared breaths", "whispers quickly"),
            ("at a high pitch", "with a shaking tone", "as if in danger", "in a thin shaking scream"),
        ),
        "body": (
            ("freezes on the spot", "shrinks away", "hides for protection", "hides behind the door"),
            ("with trembling hands", "in terror", "as if in danger", "and raises both hands in terror"),
        ),
    },
    "happiness": {
        "face": (
            ("smiles at the listener", "shows a grin", "beams with joy", "beams broadly"),
            (
                "with raised cheeks",
                "with bright eyes",
                "with the mouth corners up",
                "and pulled up cheeks",
            ),
        ),
        "voice": (
            ("laughs loudly", "chuckles with joy", "talks in a cheerful way", "chuckles between two sentences"),
            ("with a bright tone", "in a lively voice", "with a warm singing sound", "with cheerful laughing words"),
        ),
        "body": (
            ("dances around", "bounces on both feet", "claps with joy", "claps both hands"),
            ("with open arms", "in a lively way", "with a cheerful nod", "and bounces with joy"),
        ),
    },
    "neutral": {
        "face": (
            ("has a calm face", "keeps an even gaze", "shows a relaxed face", "looks ahead"),
            ("without any change", "with still brows", "with resting lips", "with calm brows and relaxed lips"),
        ),
        "voice": (
            ("speaks in a flat voice", "talks at a steady pace", "uses a plain tone", "talks evenly"),
            ("without any stress", "at an ordinary volume", "with a level pitch", "in a plain steady tone"),
        ),
        "body": (
            ("stands in a relaxed way", "sits upright", "keeps both arms still", "sits with loose arms"),
            ("without any movement", "with loose shoulders", "at a calm distance", "with no gestures"),
        ),
    },
    "sadness": {
        "face": (
            ("has tears in both eyes", "weeps with wet cheeks", "lets the mouth droop", "lowers both eyes"),
            ("with raised inner brows", "with lowered lids", "in sorrow", "as wet tears run down"),
        ),
        "voice": (
            ("sobs quietly", "cries with a weak voice", "speaks in a broken tone", "sobs in a low voice"),
            ("with long pauses", "in sorrow", "and slowly falls silent", "between slow broken sobs"),
        ),
        "body": (
            ("hangs the head", "wipes the tears away", "slumps on the chair", "slumps and hangs both arms"),
            ("in sorrow", "with a weak hand", "and weeps", "and wipes the wet eyes"),
        ),
    },
    "surprise": {
        "face": (
            ("drops the jaw", "raises the brows high", "opens the mouth wide", "blinks with raised brows"),
            ("with round eyes", "in sudden wonder", "with an astonished blink", "as the round mouth drops open"),
        ),
        "voice": (
            ("gasps in wonder", "gives a short cry", "asks with a jump in pitch", "cries out once"),
            (
                "in a sudden burst",
                "with a rising tone",
                "with an astonished breath",
                "in one short gasp",
            ),
        ),
        "body": (
            ("jumps up", "lifts both hands", "spins around", "stops and jumps"),
            ("in a sudden burst", "with an astonished look", "and stops short", "with both hands lifted in wonder"),
        ),
    },
    "contempt": {
        "face": (
            ("has a one sided smirk", "rolls both eyes", "sneers at the listener", "lifts one brow"),
            ("with half closed eyes", "in scorn", "with one raised corner of the mouth", "and smirks with closed lids"),
        ),
        "voice": (
            ("scoffs at the words", "snorts with scorn", "uses a mocking voice", "drawls slowly"),
            ("in a sarcastic way", "with a cold tone", "with a slow drawl", "in a cold dismissive tone"),
        ),
        "body": (
            ("waves the listener off", "leans back", "keeps crossed arms", "crosses both arms"),
            ("in scorn", "with a dismissive hand", "with a mocking nod", "and waves the person off with scorn"),
        ),
    },
    "anxiety": {
        "face": (
            ("has restless eyes", "bites the lower lip", "glances around", "blinks too fast"),
            ("with a worried brow", "in unease", "and blinks again and again", "and glances to the left"),
        ),
        "voice": (
            ("stammers with unease", "hurries over the words", "repeats each sentence", "swallows often"),
            ("in a strained voice", "with an uneven pace", "and swallows", "over uneven hurried words"),
        ),
        "body": (
            ("fidgets on the chair", "shifts both feet", "rubs the fingers", "shifts on one foot"),
            ("in unease", "with restless hands", "with a worried look", "and fidgets with both hands"),
        ),
    },
    "helplessness": {
        "face": (
            ("has a lost gaze", "looks up for help", "shakes a slack face", "gazes into space"),
            ("with pleading eyes", "in despair", "with an open mouth", "with a slack lost look"),
        ),
        "voice": (
            ("begs for help", "pleads in despair", "lets the words trail off", "trails off"),
            ("with a hollow voice", "in a fading tone", "with a thin breath", "in a thin pleading voice"),
        ),
        "body": (
            ("sinks to the ground", "shrugs in despair", "shows open palms", "drops to the floor"),
            ("with dropped arms", "and begs", "as if lost", "with open arms and a shrug"),
        ),
    },
    "disappointment": {
        "face": (
            ("has a fading smile", "closes both eyes", "makes a wry mouth", "looks down"),
            ("with pressed lips", "after the bad news", "and looks down", "as the pressed smile fades"),
        ),
        "voice": (
            ("sighs after the bad news", "mutters in a dull tone", "sounds tired", "exhales slowly"),
            ("with a falling voice", "and exhales", "as the hope sinks", "with a dull sinking sigh"),
        ),
        "body": (
            ("walks off", "drops the shoulders", "lowers the chin", "walks away"),
            ("after the bad news", "with a tired step", "and sighs", "as the shoulders and the chin drop"),
        ),
    },
}
"""Emotion → channel → (openings, endings) of the verifier set; every opening goes with every ending."""

SECOND_LABELS: dict[str, str] = {
    "snaps at the listener": "annoyance",
    "laughs loudly": "amusement",
    "chuckles with joy": "amusement",
    "dances around": "excitement",
    "asks with a jump in pitch": "curiosity",
    "weeps with wet cheeks": "remorse",
}
"""Opening of the verifier set → a second GoEmotions label of its sentences: stage 2 is multi-label, as in the paper."""

ANNOTATOR_SCENES: tuple[str, ...] = (
    "The camera stays close to the face.",
    "The scene takes place in a small room.",
    "A plain wall fills the background.",
)
"""Scene sentences of the annotator set: no emotion, `neutral` in GoEmotions' terms."""

VERIFIER_SCENES: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("The video shows one person", "The camera looks at a person", "The scene begins", "Somebody is seen"),
    ("in a room.", "in front of a wall.", "near a window.", "before a plain background."),
)
"""Scene sentences of the verifier set, as (openings, endings)."""
