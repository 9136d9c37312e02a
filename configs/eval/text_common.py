"""Every key of the evaluations with text (zero_shot, retrieval, captions, choice), its default and one line of meaning.

Everything about the model, its clips and its tokenizer is read from the run's own config.json and is deliberately not
a key here. A protocol looks at the keys of its own name and at the common ones.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

CONTROLS = ("none", "shuffled", "reversed", "single_frame", "blind")


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.protocol = ""  # zero_shot | retrieval | captions | choice; set by the config of that name
    c.stage = ""  # what results.jsonl calls the training stage; "" = the name of the run's objective

    c.data = d = ConfigDict()
    d.test = FieldReference("", field_type=object)  # SPEC of the clips; "" = test.csv beside the training CSV
    d.root = ""  # what relative paths in it are relative to; "" = its own folder
    d.limit = 0  # so many clips, evenly spread; 0 = all
    d.max_bad_fraction = placeholder(float)  # stop when more files than this do not decode; None = the run's
    d.workers = placeholder(int)  # decoding processes; None = the run's
    d.threads = placeholder(int)  # decoding threads; None = the run's
    d.cache = placeholder(bool)  # keep decoded videos in memory; None = the run's

    c.tasks = ("label",)  # label columns whose classes are named
    # What is done to the clips: none | shuffled (frames, fixed by the seed) | reversed | single_frame (the middle one
    # repeated) | blind (no video: a clip of the mean colour for embeddings, nothing for language models).
    c.controls = CONTROLS
    c.seed = 0  # of shuffled frames and of wrong options
    c.views = (1, 1)  # (clips, crops) of a video; embeddings are averaged over them
    c.weights = "params"  # params | ema
    c.step = 0  # checkpoint; 0 = the newest
    c.batch_size = 64

    c.zero_shot = z = ConfigDict()
    # "{}" or "{TASK}" = the class; another column in braces runs through all of its classes; "a(n)" fits the next word.
    z.templates = ("a video of {}",)
    z.average = "embeddings"  # over prompts: embeddings (CLIP) | similarities (ViCLIP, InternVideo2)
    z.clean = True  # class names: no underscores or capitals, CamelCase split, [something] = something

    c.retrieval = r = ConfigDict()
    # average (expected values) | optimistic | pessimistic | every (CLIP4Clip) | frozen (Frozen in Time)
    r.ties = "average"
    r.captions = "all"  # of a video with several: all (each a query) | first | paragraph (joined)
    r.duplicates = "merge"  # captions of equal words: merge (one query, right for all its videos) | apart
    r.dual_softmax = (
        100.0  # temperature; in rows of their own, for it needs all queries at once; 0 = left out
    )
    r.rerank = 0  # so many nearest candidates are ordered by the matching head; 0 = left out
    r.rerank_weight = 0.0  # of the similarity beside the matching score

    c.captions = t = ConfigDict()
    t.method = "greedy"  # greedy | beam | nucleus
    t.length = 0  # tokens at most; 0 = what the run was trained with
    t.beams = 4
    t.length_penalty = 0.0
    t.top_p = 0.9
    t.temperature = 1.0
    t.blind = "nothing"  # what blind generation sees: nothing | blank (a clip of the mean colour)
    t.ptb = True  # words as the COCO evaluation makes them; False = split at spaces
    t.meteor = False  # needs Java and meteor-1.5.jar (METEOR_JAR)
    t.shown = 8  # clips whose captions the report shows

    c.choice = q = ConfigDict()
    # captions (the true one among other clips' captions) | classes (of each of c.tasks) | FILE.jsonl of questions:
    # {"video": PATH, "question": TEXT, "options": [TEXT, ...], "answer": TEXT or index, "type": TEXT}; without options
    # the answer is open and has to be generated
    q.source = "captions"
    q.options = 5  # choices of a question, the right one among them; 0 = all classes
    q.by = "auto"  # embedding | likelihood | auto (what the model can do)
    q.normalise = "mean"  # likelihood of an option: mean over its tokens | sum
    return c
