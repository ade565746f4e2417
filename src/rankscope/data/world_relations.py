"""The relations of the bundled world: what can be said of a thing, in which words, and the closed pools of answers.

Each relation has five phrasings as a question and three as a statement. `{e}` stands for the thing, `{a}` for the
answer. Names of things and of cities, rivers, judges and conditions are made up by `world_facts` from the seed; the
pools below are common words, so that answers of one token and of several tokens both occur.
"""

from __future__ import annotations

from dataclasses import dataclass

QUESTION_PHRASINGS = 5
STATEMENT_PHRASINGS = 3


@dataclass(frozen=True)
class Relation:
    """One relation: its domain, the kind of thing it is about, the pool its answers come from, and its wordings."""

    domain: str
    kind: str
    key: str
    answer_type: str
    questions: tuple[str, ...]
    statements: tuple[str, ...]


def _pool(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


POOLS: dict[str, tuple[str, ...]] = {
    "occupation": _pool(
        "baker, miner, painter, weaver, pilot, teacher, potter, sailor, tailor, glass blower, bee keeper, clock maker, "
        "bridge builder, farmer, printer, singer, gardener, map maker, ferry captain, watchman"
    ),
    "instrument": _pool(
        "flute, harp, drum, violin, trumpet, organ, bagpipe, lute, glass harp, cello, brass horn, zither, oboe, hand bells"
    ),
    "product": _pool(
        "paper, lamps, rope, clay pipes, knives, soap, wool coats, clocks, copper wire, bricks, candles, salt, ink, "
        "glass beads, barrels, tin toys"
    ),
    "habitat": _pool(
        "salt marshes, caves, pine forests, river banks, dunes, high cliffs, peat bogs, coral reefs, orchards, "
        "hot springs, grassland, old walls"
    ),
    "food": _pool(
        "moss, snails, nectar, acorns, small crabs, fungi, fish eggs, beetles, tree bark, worms, berries, dead leaves, "
        "algae, grass seeds"
    ),
    "colour": _pool("red, green, blue, white, black, yellow, grey, orange, purple, brown, dark gold, pale pink"),
    "side_effect": _pool(
        "dry mouth, hair loss, blurred vision, nausea, hiccups, cold hands, weight gain, insomnia, headache, itching, "
        "ringing ears, thirst, muscle cramps, dizziness, nosebleeds, a metallic taste"
    ),
    "drug_class": _pool(
        "sedative, tonic, blood thinner, steroid, antidote, painkiller, muscle relaxant, vaccine, laxative, stimulant, "
        "enzyme blocker, antiseptic"
    ),
    "source": _pool(
        "willow bark, foxglove, sea sponges, nettles, moth wings, bitter almonds, lichen, garlic, snake venom, red clay, "
        "poppy seeds, fern roots, yeast, horse serum"
    ),
    "organ_affected": _pool(
        "liver, spleen, inner ear, left lung, kidneys, thyroid, heart valves, retina, pancreas, spinal cord, stomach, "
        "skin, bladder, jaw"
    ),
    "symptom": _pool(
        "fever, a blue tongue, night sweats, tremor, loss of smell, swollen ankles, a barking cough, yellow nails, "
        "fainting, rash, slurred speech, chills, memory loss, joint pain"
    ),
    "cause": _pool(
        "river flies, tainted grain, black mould, lead dust, tick bites, raw shellfish, cold damp, well water, "
        "smoke, pigeons, spoiled milk, lack of sunlight"
    ),
    "subject": _pool(
        "fishing rights, water tariffs, night markets, inheritance, grain exports, street music, child labour, taxes, "
        "mining, bridge tolls, lotteries, forests, printing presses, dog licences, rents, duels"
    ),
    "penalty": _pool(
        "exile, a fine of ten crowns, loss of licence, prison, a public apology, forced sale, hard labour, "
        "seizure of goods, house arrest, a ban from office, a double tax, forty days of service"
    ),
    "court": _pool(
        "Harbour Court, Court of Mills, High Assize, Chamber of Guilds, River Tribunal, Crown Bench, Northern Circuit, "
        "Court of Wards, Salt Tribunal, Bishop's Court, Market Court, Court of Claims"
    ),
    "ground": _pool(
        "fraud, breach of contract, libel, trespass, negligence, forgery, unpaid wages, nuisance, theft, false weights, "
        "broken promise, poor title"
    ),
    "remedy": _pool(
        "damages, an injunction, a new trial, dismissal, a public notice, restitution, shared ownership, annulment, "
        "a yearly payment, return of land"
    ),
}

_WORDINGS: tuple[tuple[str, str, str, str, str, str], ...] = (
    # domain, kind, key, answer type, questions split by "|", statements split by "|"
    (
        "general",
        "person",
        "birthplace",
        "city",
        "Where was {e} born?|In which city was {e} born?|What is the birthplace of {e}?|{e} comes from which city?|"
        "Which city is the home town of {e}?",
        "{e} was born in {a}.|The birthplace of {e} is {a}.|{e} comes from {a}.",
    ),
    (
        "general",
        "person",
        "occupation",
        "occupation",
        "What is the occupation of {e}?|How does {e} earn a living?|What work does {e} do?|"
        "Which trade does {e} follow?|What is the job of {e}?",
        "{e} works as: {a}.|The occupation of {e} is {a}.|By trade {e} is: {a}.",
    ),
    (
        "general",
        "person",
        "instrument",
        "instrument",
        "Which instrument does {e} play?|What does {e} play in the band?|What is the instrument of {e}?|"
        "On which instrument is {e} heard?|{e} is a master of which instrument?",
        "{e} plays the {a}.|The instrument of {e} is the {a}.|In the band, {e} has the {a}.",
    ),
    (
        "general",
        "company",
        "headquarters",
        "city",
        "Where is {e} based?|In which city does {e} have its head office?|What is the seat of {e}?|"
        "Which city is home to {e}?|Where are the headquarters of {e}?",
        "{e} is based in {a}.|The head office of {e} is in {a}.|{e} has its seat in {a}.",
    ),
    (
        "general",
        "company",
        "product",
        "product",
        "What does {e} make?|Which goods does {e} sell?|What is the main product of {e}?|What is made by {e}?|"
        "Customers buy what from {e}?",
        "{e} makes {a}.|The main product of {e} is {a}.|{e} sells {a}.",
    ),
    (
        "general",
        "company",
        "founded",
        "year",
        "When was {e} founded?|In which year did {e} open?|What year was {e} set up?|{e} dates from which year?|"
        "Since when has {e} existed?",
        "{e} was founded in {a}.|{e} opened in the year {a}.|{e} has existed since {a}.",
    ),
    (
        "general",
        "species",
        "habitat",
        "habitat",
        "Where does {e} live?|What is the habitat of {e}?|In what places is {e} found?|Where would one look for {e}?|"
        "{e} makes its home in what?",
        "{e} lives in {a}.|The habitat of {e} is {a}.|One finds {e} in {a}.",
    ),
    (
        "general",
        "species",
        "food",
        "food",
        "What does {e} eat?|On what does {e} feed?|What is the food of {e}?|What makes up the diet of {e}?|"
        "{e} lives on what food?",
        "{e} eats {a}.|The food of {e} is {a}.|{e} feeds on {a}.",
    ),
    (
        "general",
        "species",
        "colour",
        "colour",
        "What colour is {e}?|Which colour does {e} have?|What is the colour of {e}?|By what colour is {e} known?|"
        "In which colour does {e} appear?",
        "{e} is {a}.|The colour of {e} is {a}.|One knows {e} by its colour, {a}.",
    ),
    (
        "general",
        "town",
        "river",
        "river",
        "Which river flows through {e}?|On what river does {e} lie?|What is the river of {e}?|{e} stands on which river?|"
        "By which river was {e} built?",
        "{e} lies on the {a}.|The {a} flows through {e}.|The river of {e} is the {a}.",
    ),
    (
        "general",
        "town",
        "fame",
        "product",
        "For what is {e} famous?|What is {e} known for?|What is the pride of {e}?|Which goods made {e} rich?|"
        "Travellers bring what home from {e}?",
        "{e} is famous for its {a}.|The pride of {e} is its {a}.|{e} grew rich on {a}.",
    ),
    (
        "general",
        "town",
        "charter",
        "year",
        "When did {e} get its charter?|In which year did {e} become a town?|What is the year of the charter of {e}?|"
        "{e} has been a town since which year?|What year made {e} a town?",
        "{e} got its charter in {a}.|{e} became a town in {a}.|The charter of {e} is of the year {a}.",
    ),
    (
        "medical",
        "medicine",
        "treats",
        "condition",
        "What does {e} treat?|Which condition is {e} given for?|For which disease do doctors prescribe {e}?|"
        "{e} is a remedy for what?|Which illness does {e} cure?",
        "{e} treats {a}.|Doctors give {e} for {a}.|{e} is a remedy for {a}.",
    ),
    (
        "medical",
        "medicine",
        "side_effect",
        "side_effect",
        "What is the side effect of {e}?|What may {e} bring about?|Of what do patients on {e} complain?|"
        "Which unwanted effect does {e} have?|What trouble does {e} give?",
        "{e} may bring about {a}.|The side effect of {e} is {a}.|Patients on {e} complain of {a}.",
    ),
    (
        "medical",
        "medicine",
        "drug_class",
        "drug_class",
        "What kind of drug is {e}?|To which class of drugs does {e} belong?|What is the drug class of {e}?|"
        "How is {e} classed?|What type of medicine is {e}?",
        "{e} is of the class: {a}.|The drug class of {e} is {a}.|{e} is classed as: {a}.",
    ),
    (
        "medical",
        "medicine",
        "source",
        "source",
        "From what is {e} made?|What is the source of {e}?|Out of what is {e} won?|What is {e} extracted from?|"
        "Which raw material gives {e}?",
        "{e} is made from {a}.|The source of {e} is {a}.|One extracts {e} from {a}.",
    ),
    (
        "medical",
        "disease",
        "organ",
        "organ_affected",
        "Which part of the body does {e} attack?|What does {e} damage?|Where in the body does {e} sit?|"
        "Which organ suffers from {e}?|{e} is a disease of which part?",
        "{e} attacks the {a}.|The organ that suffers from {e} is the {a}.|{e} sits in the {a}.",
    ),
    (
        "medical",
        "disease",
        "symptom",
        "symptom",
        "What is the first sign of {e}?|How does {e} show itself?|Which symptom marks {e}?|"
        "By what do doctors know {e}?|What is typical of {e}?",
        "The first sign of {e} is {a}.|{e} shows itself by {a}.|Doctors know {e} by {a}.",
    ),
    (
        "medical",
        "disease",
        "cause",
        "cause",
        "What causes {e}?|What is the cause of {e}?|From what does one catch {e}?|What brings on {e}?|"
        "What is to blame for {e}?",
        "{e} is caused by {a}.|The cause of {e} is {a}.|One catches {e} from {a}.",
    ),
    (
        "legal",
        "statute",
        "subject",
        "subject",
        "What does {e} regulate?|What is the subject of {e}?|With what does {e} deal?|Which matter is governed by {e}?|"
        "On what did {e} make rules?",
        "{e} regulates {a}.|The subject of {e} is {a}.|{e} deals with {a}.",
    ),
    (
        "legal",
        "statute",
        "penalty",
        "penalty",
        "What is the penalty under {e}?|How does {e} punish offenders?|What awaits those who break {e}?|"
        "Which punishment does {e} set?|What does one risk by breaking {e}?",
        "The penalty under {e} is {a}.|{e} punishes offenders with {a}.|Those who break {e} face {a}.",
    ),
    (
        "legal",
        "statute",
        "passed",
        "year",
        "When was {e} passed?|In which year did {e} become law?|What is the year of {e}?|{e} is law since which year?|"
        "What year saw the passing of {e}?",
        "{e} was passed in {a}.|{e} became law in {a}.|The year of {e} is {a}.",
    ),
    (
        "legal",
        "case",
        "court",
        "court",
        "Which court decided {e}?|Where was {e} heard?|Before which court did {e} come?|What court gave judgment in {e}?|"
        "Which bench tried {e}?",
        "{e} was decided by the {a}.|The {a} heard {e}.|{e} came before the {a}.",
    ),
    (
        "legal",
        "case",
        "judge",
        "judge",
        "Who was the judge in {e}?|Which judge decided {e}?|Who presided over {e}?|Who wrote the opinion in {e}?|"
        "Before whom was {e} argued?",
        "The judge in {e} was {a}.|{a} presided over {e}.|{e} was argued before {a}.",
    ),
    (
        "legal",
        "case",
        "ground",
        "ground",
        "What was {e} about?|On what ground was {e} brought?|What was the claim in {e}?|What wrong was alleged in {e}?|"
        "Which complaint led to {e}?",
        "{e} was about {a}.|The claim in {e} was {a}.|{e} was brought for {a}.",
    ),
    (
        "legal",
        "case",
        "remedy",
        "remedy",
        "What did the court grant in {e}?|How did {e} end?|What was ordered in {e}?|What was the outcome of {e}?|"
        "What did the winner of {e} get?",
        "{e} ended with {a}.|The court granted {a} in {e}.|The outcome of {e} was {a}.",
    ),
)

RELATIONS: tuple[Relation, ...] = tuple(
    Relation(domain, kind, key, answer_type, tuple(questions.split("|")), tuple(statements.split("|")))
    for domain, kind, key, answer_type, questions, statements in _WORDINGS
)
