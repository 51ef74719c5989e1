"""The words of questions about drawn scenes, and of their answers.

Each kind of question has many wordings; training never has those of `UNSEEN`. In them, `{thing}` and `{other}` are told
apart from all others of their scene, `{relation}` has several phrases too. Answers have one form each, at least two
words, and only words that a speech recogniser writes in one way.
"""

KINDS = ("colour", "shape", "size", "count", "where", "what", "yes_no", "there", "absent")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
LONGEST_QUESTION = 80  # characters

WORDINGS = {
    "colour": (
        "What colour is the {thing}?",
        "Which colour is the {thing}?",
        "Tell me the colour of the {thing}.",
        "What is the colour of the {thing}?",
        "The {thing} is what colour?",
        "Please name the colour of the {thing}.",
        "What colour does the {thing} have?",
        "Can you tell me what colour the {thing} is?",
        "Say which colour the {thing} has.",
        "Do you know the colour of the {thing}?",
    ),
    "shape": (
        "What is {colour}?",
        "Which shape is {colour}?",
        "What is the {colour} thing?",
        "What shape is the {colour} thing?",
        "What shape does the {colour} thing have?",
        "Tell me what is {colour}.",
        "Please name the {colour} shape.",
        "Which thing is {colour}?",
        "Can you tell me what is {colour}?",
        "The {colour} thing is what shape?",
    ),
    "size": (
        "How big is the {thing}?",
        "What size is the {thing}?",
        "Is the {thing} big or small?",
        "How large is the {thing}?",
        "Tell me the size of the {thing}.",
        "Is the {thing} small or big?",
        "What is the size of the {thing}?",
        "Which size does the {thing} have?",
        "Say how big the {thing} is.",
        "Can you tell me how big the {thing} is?",
    ),
    "count": (
        "How many {things} are there?",
        "How many {things} do you see?",
        "Count the {things}.",
        "How many {things} can you see?",
        "How many {things} are in the picture?",
        "Tell me how many {things} there are.",
        "What is the number of {things}?",
        "Please count all {things}.",
        "Can you count the {things}?",
        "How many {things} does the picture show?",
    ),
    "where": (
        "Where is the {thing}?",
        "Where do you see the {thing}?",
        "Tell me where the {thing} is.",
        "In which place is the {thing}?",
        "Where can I find the {thing}?",
        "Say where the {thing} is.",
        "Can you tell me where the {thing} is?",
        "Where does the {thing} stand?",
        "Do you know where the {thing} is?",
        "Please find the {thing}.",
    ),
    "what": (
        "What is {relation} the {thing}?",
        "What do you see {relation} the {thing}?",
        "Which thing is {relation} the {thing}?",
        "Tell me what is {relation} the {thing}.",
        "What stands {relation} the {thing}?",
        "What can you see {relation} the {thing}?",
        "Which shape is {relation} the {thing}?",
        "Say what is {relation} the {thing}.",
        "What can be found {relation} the {thing}?",
        "Something is {relation} the {thing}. What is it?",
    ),
    "yes_no": (
        "Is the {thing} {relation} the {other}?",
        "Do you see the {thing} {relation} the {other}?",
        "Is it true that the {thing} is {relation} the {other}?",
        "Does the {thing} stand {relation} the {other}?",
        "Can you see the {thing} {relation} the {other}?",
        "Tell me if the {thing} is {relation} the {other}.",
        "The {thing} is {relation} the {other}. Is that right?",
        "Say if the {thing} is {relation} the {other}.",
        "Would you say the {thing} is {relation} the {other}?",
    ),
    "there": (
        "Is there a {thing}?",
        "Do you see a {thing}?",
        "Can you see a {thing}?",
        "Does the picture show a {thing}?",
        "Is a {thing} in the picture?",
        "Is there any {thing}?",
        "Tell me if there is a {thing}.",
        "Say if you see a {thing}.",
    ),
}
DESCRIBE = (  # an image
    "Describe the picture.",
    "Describe the image.",
    "Describe this picture.",
    "Describe what you see.",
    "What do you see?",
    "What can you see?",
    "What is in the picture?",
    "What is in the image?",
    "What does the picture show?",
    "Tell me what is in the picture.",
)
WRITE_DOWN = (  # what is heard
    "Write what you hear.",
    "Write down what you hear.",
    "Write what is said.",
    "Please write what you hear.",
    "What do you hear?",
    "What did I say?",
    "What was said?",
    "What is said?",
    "Transcribe the audio.",
    "Transcribe what you hear.",
)
UNSEEN = {
    "colour": (
        "Which colour does the {thing} have?",
        "I want to know the colour of the {thing}.",
        "Could you say what colour the {thing} is?",
    ),
    "shape": (
        "Which shape does the {colour} thing have?",
        "Tell me the shape of the {colour} thing.",
        "Say what is {colour}.",
    ),
    "size": (
        "What size does the {thing} have?",
        "Tell me how big the {thing} is.",
        "Do you know the size of the {thing}?",
    ),
    "count": (
        "Tell me the number of {things}.",
        "How many {things} can you find?",
        "Say how many {things} you see.",
    ),
    "where": (
        "Please tell me where the {thing} is.",
        "Where in the picture is the {thing}?",
        "Where can you see the {thing}?",
    ),
    "what": (
        "Can you say what is {relation} the {thing}?",
        "What is there {relation} the {thing}?",
        "Please name the thing {relation} the {thing}.",
    ),
    "yes_no": (
        "Do you find the {thing} {relation} the {other}?",
        "The {thing} is {relation} the {other}, right?",
        "Tell me whether the {thing} is {relation} the {other}.",
    ),
    "there": ("Can you find a {thing}?", "Is there a {thing} in the picture?"),
}
PHRASES = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
ABSENT = ("colour", "size", "where", "shape", "what", "yes_no")  # kinds of questions about what is not there

ANSWERS = {
    "colour": "It looks {colour}.",
    "shape": "It looks like {article} {shape}.",
    "size": "It looks {size}.",
    "where": "It is {relation} the {thing}.",
    "what": "It looks like {article} {thing}.",
    "absent": "I see no {thing}.",
}
YES, NO = "Yes, it is.", "No, it is not."
THERE, NOT_THERE = "Yes, there is.", "No, there is not."
UNKNOWN = "I do not know."


def article(word: str) -> str:
    """Return "a" or "an"."""
    return "an" if word[0] in "aeiou" else "a"


def choose_wordings(kind: str, unseen: bool) -> tuple[str, ...]:
    """Return the wordings of a kind of question, of training or those it never has."""
    return (UNSEEN if unseen else WORDINGS)[kind]


def fill(wording: str, **parts: str) -> str:
    """Return a wording with its parts, and "an" where it has to be."""
    return wording.format(**parts).replace(" a orange", " an orange")
