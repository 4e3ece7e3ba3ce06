"""The vocabulary: everything that a model is taught to draw and to name, two hundred things.

Each line of `_TABLE` is one thing: its name, other names that mean the same, and after "=" the
Unicode labels of its sprites. Without "=", the label is the name. Where a thing has several
sprites, the first one is drawn; a judge takes each of them for the thing. "!" marks things that
look wrong in a mirror, mostly because they bear letters or digits.

"-" marks things that are not taught: a small model draws few things rightly or many softly. They
are left out of questions too, and so are other sprites that resemble a thing of the vocabulary
("oncoming taxi"), see `is_passed_over`. All remaining sprites are unknown on purpose: a model
learns to say so when it sees one.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class Entry(NamedTuple):
    """One thing of the vocabulary.

    Attributes:
        name: Plain name: "fir tree".
        others: Other names of the same thing.
        labels: Unicode labels of its sprites; the first one is drawn.
        mirrors: Whether its sprites look right in a mirror.
        taught: Whether a model is taught this thing.
    """

    name: str
    others: tuple[str, ...]
    labels: tuple[str, ...]
    mirrors: bool
    taught: bool


_TABLE = """
# Pets, farm and wild animals
dog, puppy, doggy = dog | dog face
cat, kitten, kitty = cat | cat face
- black cat
fox
bear, brown bear, grizzly
- polar bear
panda, panda bear
koala
pig, piglet = pig | pig face
frog, toad
lion
tiger = tiger | tiger face
- leopard, cheetah
rabbit, bunny, hare = rabbit | rabbit face
mouse = mouse | mouse face
- hamster, guinea pig
horse, pony = horse | horse face
- donkey, mule
cow = cow | cow face
goat
sheep, lamb = ewe
deer, reindeer
- camel, dromedary = camel | two-hump camel
- llama, alpaca
giraffe
zebra
elephant
- rhino, rhinoceros = rhinoceros
- hippo, hippopotamus = hippopotamus
- kangaroo, wallaby
monkey = monkey | monkey face
- gorilla, ape
- otter
- raccoon
- skunk
- beaver
squirrel, chipmunk = chipmunk
hedgehog, porcupine
- bat
wolf
unicorn
dragon = dragon | dragon face
dinosaur, t-rex, tyrannosaurus = T-Rex | sauropod
turtle, tortoise
snake, serpent
crocodile, alligator
- lizard, gecko
# Birds
bird, songbird = bird
chicken, hen = chicken
- rooster, cock
- chick, baby chick, baby bird = baby chick | front-facing baby chick
duck, mallard
- goose
swan
penguin
owl
- eagle, hawk
parrot
- peacock
flamingo
- pigeon, dove = dove
- crow, raven, black bird = black bird
# Sea animals
fish = fish
- tropical fish
shark
whale = whale | spouting whale
dolphin
- seal, sea lion
octopus
- squid
- jellyfish
crab
- lobster
- shrimp, prawn
- shell, seashell = spiral shell
# Small animals
butterfly
bee, honeybee, bumblebee = honeybee
ladybird, ladybug = lady beetle
- caterpillar = bug
- ant
spider
- spider web, cobweb
- scorpion
snail
- grasshopper, cricket = cricket
- nest, bird's nest = nest with eggs
- feather
# People
boy
girl
man
woman
baby
- old man, grandpa, grandfather
- old woman, grandma, grandmother
king = person with crown
princess
astronaut, spaceman
wizard, magician, mage = mage
fairy
mermaid
santa, santa claus, father christmas = Santa Claus
- vampire, dracula
- zombie
- superhero
- angel, cherub = baby angel
- ninja
- police officer, policeman = police officer
- firefighter, fireman
- doctor, nurse = health worker
- chef, cook = cook
- farmer
- pilot
- scientist
- dancer = woman dancing
- runner, person running = person running
- swimmer, person swimming = person swimming
- surfer, person surfing = person surfing
- cyclist, person biking = person biking
- skier
- snowboarder
# Creatures
ghost, spirit
alien, martian
robot
snowman = snowman | snowman without snow
- ogre, monster = ogre
clown = clown face
skull
- pile of poo, poop, poo
# Faces
happy face, grinning face, smiley = grinning face | grinning face with big eyes
- smiling face, smile = slightly smiling face | smiling face with smiling eyes
- laughing face, face with tears of joy = face with tears of joy | rolling on the floor laughing
sad face, frowning face = slightly frowning face | frowning face
- crying face, sobbing face = crying face | loudly crying face
angry face, mad face = angry face | enraged face
- surprised face, shocked face = astonished face | face with open mouth
- scared face, screaming face = face screaming in fear
- face in love, heart eyes, face with heart eyes = smiling face with heart-eyes
- cool face, face with sunglasses = smiling face with sunglasses
- winking face, wink
- sleeping face
- thinking face
- sick face, nauseated face = nauseated face
- cold face, freezing face
- party face, partying face = partying face
- nerd, nerd face = nerd face
- cowboy = cowboy hat face
- devil = smiling face with horns
- face with tongue
- face with a mask = face with medical mask
# Hands and parts of the body
thumbs up, like
- thumbs down, dislike
- hand, open hand = raised hand
- fist = raised fist
- victory hand, peace sign = victory hand
- clapping hands, applause
- praying hands, folded hands = folded hands
- strong arm, muscle, biceps = flexed biceps
eye
- eyes, pair of eyes
- ear
- nose
- tooth
- bone
- foot
- brain
# Plants
tree = deciduous tree
fir tree, pine tree, fir, pine, evergreen tree = evergreen tree
christmas tree, xmas tree = Christmas tree
palm tree, palm
cactus
flower, blossom = blossom | hibiscus | cherry blossom
tulip
rose
sunflower
- bouquet, bunch of flowers, flowers
leaf, green leaf = leaf fluttering in wind
- maple leaf
- autumn leaves, fallen leaves = fallen leaf
- clover, shamrock, four leaf clover = four leaf clover | shamrock
- seedling, sprout
potted plant, plant, houseplant
- wheat, sheaf of rice = sheaf of rice
mushroom, toadstool
# Fruit and vegetables
apple, red apple = red apple
pear
- peach
orange, tangerine, mandarin = tangerine
lemon
banana
pineapple
- mango
watermelon
grapes, bunch of grapes
strawberry
- blueberries, blueberry
cherries, cherry
- kiwi = kiwi fruit
- coconut
avocado
tomato
- potato
carrot
corn, corn cob, sweetcorn = ear of corn
- chili pepper, chili, hot pepper = hot pepper
- bell pepper, pepper, paprika
- cucumber, pickle
- lettuce, cabbage = leafy green
broccoli
- garlic
- onion
- eggplant, aubergine
- peanuts, peanut
# Meals
bread, loaf of bread, loaf, toast
- croissant
- baguette = baguette bread
- pretzel
pancakes, pancake
- waffle
cheese, piece of cheese = cheese wedge
egg
- fried egg, frying pan = cooking
- meat, meat on bone = meat on bone
- chicken leg, drumstick = poultry leg
- steak = cut of meat
- bacon
hamburger, burger, cheeseburger
fries, french fries, chips = french fries
pizza, slice of pizza, pizza slice
hot dog, hotdog
sandwich
taco
- salad = green salad
- soup, stew, pot of food = pot of food
- rice, bowl of rice = cooked rice
- noodles, bowl of noodles, ramen = steaming bowl
- spaghetti, pasta
- sushi
popcorn
- butter
# Sweets
ice cream, ice cream cone = ice cream | soft ice cream
doughnut, donut
cookie, biscuit
cake, piece of cake, slice of cake = shortcake
birthday cake
cupcake, muffin
- pie
- chocolate, chocolate bar = chocolate bar
- candy, sweet, sweets
lollipop
- honey, honey pot = honey pot
# Drinks and dishes
cup, coffee, cup of coffee, coffee cup, hot drink, mug = hot beverage
- green tea, cup of tea, tea = teacup without handle
teapot
- milk, glass of milk = glass of milk
- wine, wine glass, glass of wine = wine glass
- cocktail, martini = cocktail glass
- tropical drink, fruit cocktail = tropical drink
beer, beer mug, glass of beer = beer mug
- champagne, bottle of champagne, bottle = bottle with popping cork
- bubble tea
- ice cube = ice
- fork and knife, cutlery
- plate, dinner plate = fork and knife with plate
- spoon
- knife = kitchen knife
- jar
- vase, amphora = amphora
# Road, rail, water and air
car, automobile = automobile
taxi, cab
- police car
- ambulance
fire truck, fire engine = fire engine
- race car, racing car = racing car
truck, lorry, delivery truck = delivery truck
- pickup truck, pickup
tractor
bus
- van, minibus = minibus
train, steam train, locomotive = locomotive
- bullet train, high-speed train = high-speed train | bullet train
- tram, streetcar = tram car
bicycle, bike
motorcycle, motorbike
- motor scooter, moped
- kick scooter, scooter = kick scooter
- skateboard
- wheel, tyre
- traffic light, traffic lights = vertical traffic light | horizontal traffic light
- road, highway = motorway
boat, sailboat, sailing boat, yacht = sailboat
ship, cruise ship = passenger ship
- speedboat, motorboat = speedboat | motor boat
- canoe, rowing boat
anchor
plane, airplane, aeroplane, aircraft = airplane
helicopter, chopper
rocket, spaceship
ufo, flying saucer = flying saucer
- parachute
# Buildings and places
house, home = house | house with garden
castle = castle
- church
- school
- hospital
- skyscraper, office building = office building
- tower = Tokyo tower
tent
- fountain
- ferris wheel, big wheel
- roller coaster
- circus tent, circus
- slide, playground slide = playground slide
volcano
mountain = snow-capped mountain | mountain
- island = desert island
- ! map, world map = world map
earth, globe, planet earth, world = globe showing Europe-Africa | globe showing Americas
- compass
# Sky and weather
sun = sun | sun with face
moon = crescent moon | full moon
star, yellow star
- shooting star
planet, saturn = ringed planet
cloud
- rain cloud = cloud with rain
- snow cloud = cloud with snow
- thundercloud, thunderstorm, storm cloud = cloud with lightning | cloud with lightning and rain
lightning, lightning bolt, bolt = high voltage
rainbow
snowflake
- tornado
- wave, ocean wave = water wave
fire, flame, flames
- drop of water, water drop, droplet = droplet
umbrella = umbrella
- beach umbrella, parasol = umbrella on ground
# Games, sports and parties
ball, football, soccer ball = soccer ball
basketball
- baseball
- volleyball
- american football
- tennis racket, tennis ball, tennis = tennis
- ice skate, skate
- skis, ski
- sled, sledge
- fishing rod, fishing pole = fishing pole
- target, bullseye = bullseye
- medal = sports medal
trophy, cup trophy
- yo-yo
kite
- ! 8 ball, billiard ball = pool 8 ball
- crystal ball
- magic wand, wand
- game controller, gamepad = video game
- dice, die = game die
- puzzle piece, puzzle, jigsaw piece
teddy bear, teddy
- theatre masks, theater masks, masks = performing arts
- painting, picture frame = framed picture
- palette, paint palette = artist palette
- yarn, ball of wool
balloon
gift, present = wrapped gift
- bow, ribbon = ribbon
pumpkin, jack-o-lantern = jack-o-lantern
- fireworks
# Clothes
t-shirt, shirt
- jeans, trousers, pants
dress
- coat, jacket
- scarf
- gloves, glove
- socks, sock
- tie, necktie = necktie
shoe, sneaker, trainer, running shoe = running shoe
- boot, hiking boot = hiking boot
hat, top hat = top hat
- sun hat, woman's hat = woman’s hat
cap, baseball cap = billed cap
- graduation cap
- helmet = rescue worker’s helmet
crown
glasses
sunglasses
ring
diamond, gem, jewel = gem stone
- lipstick
backpack, rucksack
- handbag, bag = handbag
- suitcase, luggage = luggage
# Music and sound
guitar
violin, fiddle
drum
trumpet
- saxophone
- accordion
- piano, keyboard piano = musical keyboard
- ! musical note, note = musical note
- ! musical notes
microphone
- headphones = headphone
- radio
- megaphone
bell
# Screens and devices
phone, smartphone, mobile phone = mobile phone
- telephone, old phone = telephone
laptop
computer, desktop computer = desktop computer
- keyboard
- battery
light bulb, bulb
television, tv = television
camera = camera | camera with flash
- movie camera = movie camera
- torch, flashlight = flashlight
- magnifying glass = magnifying glass tilted left | magnifying glass tilted right
- microscope
- telescope
# Books, letters and money
book = closed book
- open book
- books, stack of books
- notebook = notebook with decorative cover
- scroll
- ! newspaper
- letter, envelope = envelope
- mailbox = closed mailbox with raised flag
- box, parcel = package
- ! calendar = calendar | tear-off calendar
- ! ruler = straight ruler
scissors
pencil
- pen
- paintbrush, brush = paintbrush
- ! money bag, bag of money = money bag
- ! coin, gold coin = coin
- ! money, dollars, banknote = dollar banknote
# Tools
hammer
- axe
- pickaxe, pick = pick
- saw = carpentry saw
- wrench, spanner
- screwdriver
- ladder
magnet
- gear, cog
- bomb
sword, dagger = dagger
- swords, crossed swords = crossed swords
- shield
key
- lock, padlock = locked
# At home
bed
sofa, couch = couch and lamp
chair
door
window
- mirror
- toilet
- bath, bathtub = bathtub
- bucket
- basket
- broom
- soap, bar of soap
- bubbles
- toothbrush
- shopping cart, shopping trolley
- bin, trash can = wastebasket
candle
- lantern, paper lantern = red paper lantern
! clock, wall clock = three o’clock | ten o’clock | eight o’clock | four o’clock | nine o’clock
- ! alarm clock
- ! watch, wristwatch = watch
- hourglass = hourglass done | hourglass not done
- pill
- gravestone, tombstone = headstone
- rock, stone = rock
# Shapes and signs
heart, red heart = red heart
- broken heart
circle = red circle
square = red square
- triangle = red triangle pointed up
- ! question mark = red question mark
- ! exclamation mark = red exclamation mark
- ! check mark, tick = check mark | check mark button
- ! arrow = right arrow
- speech bubble = speech balloon
- sparkles
"""

# Sprites outside of the vocabulary that resemble something in it, by Unicode subgroup and by label.
_ALIKE_SUBGROUPS = frozenset(
    "time heart geometric person person-role person-fantasy person-gesture person-activity "
    "person-sport person-resting family cat-face monkey-face face-smiling face-affection "
    "face-tongue face-hand face-neutral-skeptical face-sleepy face-unwell face-hat face-glasses "
    "face-concerned face-negative hand-fingers-open hand-fingers-partial hand-single-finger "
    "hand-fingers-closed hands hand-prop punctuation drink person-symbol".split()
)
_ALIKE = frozenset(
    (
        "service dog",
        "guide dog",
        "hatching chick",
        "pig nose",
        "cockroach",
        "microbe",
        "empty nest",
        "green apple",
        "white flower",
        "rosette",
        "pine decoration",
        "tanabata tree",
        "glowing star",
        "dizzy",
        "sparkle",
        "eight-pointed star",
        "new moon",
        "waxing crescent moon",
        "first quarter moon",
        "waxing gibbous moon",
        "waning gibbous moon",
        "last quarter moon",
        "waning crescent moon",
        "new moon face",
        "first quarter moon face",
        "last quarter moon face",
        "full moon face",
        "sun behind cloud",
        "sun behind small cloud",
        "sun behind large cloud",
        "sun behind rain cloud",
        "umbrella with rain drops",
        "closed umbrella",
        "wind face",
        "cityscape",
        "cityscape at dusk",
        "sunset",
        "sunrise",
        "sunrise over mountains",
        "night with stars",
        "foggy",
        "bridge at night",
        "milky way",
        "camping",
        "beach with umbrella",
        "desert",
        "national park",
        "mount fuji",
        "globe showing Asia-Australia",
        "globe with meridians",
        "map of Japan",
        "houses",
        "derelict house",
        "love hotel",
        "hotel",
        "bank",
        "post office",
        "Japanese post office",
        "department store",
        "convenience store",
        "wedding",
        "hindu temple",
        "railway car",
        "train",
        "metro",
        "light rail",
        "station",
        "tram",
        "oncoming bus",
        "trolleybus",
        "oncoming police car",
        "oncoming taxi",
        "oncoming automobile",
        "sport utility vehicle",
        "mountain railway",
        "suspension railway",
        "aerial tramway",
        "motorized wheelchair",
        "ship",
        "airplane departure",
        "airplane arrival",
        "softball",
        "field hockey",
        "lacrosse",
        "2nd place medal",
        "3rd place medal",
        "military medal",
        "running shirt",
        "flat shoe",
        "woman’s boot",
        "woman’s clothes",
        "clutch bag",
        "military helmet",
        "safety vest",
        "sari",
        "briefs",
        "level slider",
        "studio microphone",
        "speaker low volume",
        "speaker medium volume",
        "muted speaker",
        "bell with slash",
        "bellhop bell",
        "mobile phone with arrow",
        "telephone receiver",
        "computer disk",
        "low battery",
        "green book",
        "blue book",
        "orange book",
        "notebook",
        "ledger",
        "rolled-up newspaper",
        "spiral calendar",
        "spiral notepad",
        "open file folder",
        "e-mail",
        "incoming envelope",
        "envelope with arrow",
        "closed mailbox with lowered flag",
        "open mailbox with raised flag",
        "open mailbox with lowered flag",
        "linked paperclips",
        "round pushpin",
        "triangular ruler",
        "yen banknote",
        "euro banknote",
        "pound banknote",
        "money with wings",
        "chart increasing",
        "chart decreasing",
        "chart increasing with yen",
        "admission tickets",
        "hammer and wrench",
        "hammer and pick",
        "locked with pen",
        "locked with key",
        "left speech bubble",
        "thought balloon",
        "right anger bubble",
        "eye in speech bubble",
        "ear with hearing aid",
        "musical score",
        "cross mark button",
        "multiply",
        "check box with check",
        "heart suit",
        "diamond suit",
        "left arrow",
        "up arrow",
        "down arrow",
        "reminder ribbon",
        "flatbread",
        "falafel",
        "bowl with spoon",
        "moon cake",
        "large blue diamond",
        "large orange diamond",
        "hollow red circle",
        "keycap: 10",
        "skull and crossbones",
        "poodle",
        "boar",
        "ram",
        "ox",
        "water buffalo",
        "bison",
        "moose",
        "rat",
        "articulated lorry",
        "small airplane",
        "long drum",
        "video camera",
        "fountain pen",
        "unlocked",
        "old key",
        "love letter",
        "mouth",
        "tongue",
        "leg",
        "mosquito",
        "fly",
        "beetle",
        "worm",
        "curry rice",
        "shallow pan of food",
        "pea pod",
        "herb",
        "man’s shoe",
        "woman’s sandal",
        "thong sandal",
        "high-heeled shoe",
        "bikini",
        "one-piece swimsuit",
        "purse",
        "shopping bags",
        "briefcase",
        "optical disk",
        "dvd",
        "file folder",
        "rugby football",
        "mammoth",
        "orangutan",
        "banjo",
        "manual wheelchair",
        "ferry",
        "1st place medal",
        "collision",
        "bowling",
        "hut",
        "classical building",
        "canned food",
        "beverage box",
        "baby bottle",
        "cup with straw",
        "neutral face",
        "turkey",
        "blowfish",
        "speaker high volume",
        "factory",
        "stadium",
        "mosque",
        "shorts",
        "electric plug",
    )
)


@cache
def vocabulary() -> tuple[Entry, ...]:
    """All things that are taught, in the order of the table."""
    return tuple(entry for entry in entries() if entry.taught)


def is_passed_over(label: str, subgroup: str) -> bool:
    """Whether a sprite outside of the vocabulary resembles something in it, or has a name that is
    not taught.
    """
    return label in _ALIKE or subgroup in _ALIKE_SUBGROUPS or label in _untaught_labels()


@cache
def entries() -> tuple[Entry, ...]:
    """All things of the table, also those that are not taught."""
    lines = (line for line in _TABLE.strip().splitlines() if not line.startswith("#"))
    return tuple(_entry(line) for line in lines)


@cache
def _untaught_labels() -> frozenset[str]:
    return frozenset(label for e in entries() if not e.taught for label in e.labels)


def _entry(line: str) -> Entry:
    taught, line = not line.startswith("- "), line.removeprefix("- ")
    named, _, labels = line.removeprefix("! ").partition(" = ")
    name, *others = named.split(", ")
    sprites = tuple(labels.split(" | ")) if labels else (name,)
    return Entry(name, tuple(others), sprites, not line.startswith("!"), taught)
