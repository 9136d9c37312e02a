"""Every key of an evaluation, its default and one line of meaning.

Everything about the encoder and its clips (frames, size, normalisation ...) is read from the run's own
config.json and is deliberately not a key here.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.stage = ""  # what results.jsonl calls the training stage; "" = the name of the run's objective
    c.protocol = "split"  # split: train / validation / test | leave_one_group_out: kNN over one labelled set

    c.data = d = ConfigDict()
    # SPECs, as config.data.train of a training run
    d.train = FieldReference("", field_type=object)  # labelled clips; "" = what the run was trained on
    # Hyper-parameters are chosen on validation, test is reported; "" = validation.csv, test.csv beside the training CSV
    d.validation = FieldReference("", field_type=object)
    d.test = FieldReference("", field_type=object)
    d.root = ""  # what relative paths in these CSVs are relative to; "" = each CSV's own folder
    d.group = "group"  # CSV column that leave_one_group_out leaves out, such as the person in the clip
    d.max_bad_fraction = placeholder(float)  # stop when more files than this do not decode; None = the run's
    d.workers = placeholder(int)  # decoding processes; None = the run's
    d.threads = placeholder(int)  # decoding threads; None = the run's
    d.cache = placeholder(bool)  # keep decoded videos in memory; None = the run's

    c.tasks = ("label",)  # label columns of the CSV
    c.probes = ("linear", "attentive", "knn")
    c.labels = ("all",)  # label budgets: "all", or how many labelled clips of each class
    c.seeds = 3  # of subsets, initialisation and batch order: 0, 1, ...
    c.views = (1, 1)  # (clips, crops) of a video that is judged; softmax or features averaged over views

    # What is done to the test clips that trained probes are judged on, beside none: shuffled (frames) | reversed |
    # single_frame (the middle one, all the time) | blind. What is lost is what the features knew of motion and order.
    c.controls = ("none",)

    c.weights = "params"  # params | ema
    c.step = 0  # checkpoint; 0 = the newest
    c.batch_size = 64  # of feature extraction
    c.feature_dtype = "float16"  # of cached tokens: float16 | float32
    c.pooling = "mean"  # of the linear and kNN probes: mean (of tokens) | cls

    c.linear = p = ConfigDict()  # standardised pooled features -> softmax regression, AdamW, cosine to 0
    p.lr = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    p.weight_decay = (1e-3, 0.1, 1.0)
    p.epochs = 60
    p.min_steps = 600  # few labels make short epochs
    p.batch_size = 256

    c.attentive = p = ConfigDict()  # one learned query, one cross-attention block -> softmax regression
    p.lr = (1e-3, 3e-3, 1e-2)
    p.weight_decay = (0.1,)
    p.heads = 0  # 0 = one for each 64 channels
    p.mlp_ratio = 4.0
    p.epochs = 12
    p.min_steps = 150
    p.batch_size = 256

    c.knn = p = ConfigDict()  # cosine similarity, votes weighted by softmax(similarity / temperature)
    p.k = (10, 20, 100, 200)  # chosen on validation
    p.temperature = 0.07
    p.group_k = 1  # leave_one_group_out has no validation set, so its k is fixed beforehand
    return c
