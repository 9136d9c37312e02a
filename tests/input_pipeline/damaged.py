"""Small files of every published layout, and ways to damage them."""

import copy
import json
from typing import Any

import numpy as np

CONVERSATION = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
JSON: dict[str, Any] = {
    "conversations": [{"video": "a.mp4", "start_time": 1.0, "end_time": 2.0, "conversations": CONVERSATION}],
    "captions": [{"path": "a.mp4", "captions": ["a", "b"], "label": 3, "place": "x"}],
    "kinetics": {
        "a": {"annotations": {"label": "yoga", "segment": [8, 18.0]}, "subset": "train", "duration": 10.0}
    },
    "few": [{"file": "a.mp4", "label": "yoga", "youtube_id": "a", "label_idx": 0}],
    "ssv2": [
        {"id": "7", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]}
    ],
    "ssv2 test": [{"id": "7"}, {"id": "8"}],
    "msrvtt": {
        "videos": [{"video_id": "video0", "category": 3, "split": "train"}],
        "sentences": [{"video_id": "video0", "caption": "a dog", "sen_id": 1}],
    },
    "didemo": [{"video": "a.mov", "description": "a dog", "times": [[0, 1], [1, 1]]}],
    "activitynet": {"v_a": {"duration": 9.5, "timestamps": [[0, 2.5]], "sentences": ["A dog."]}},
    "actions": {
        "v_a": {"duration": 9.5, "subset": "x", "annotations": [{"segment": [0.5, 2], "label": "Run"}]}
    },
    "vatex": [{"videoID": "a_000001_000011", "enCap": ["a dog"], "chCap": ["x"]}],
    "hvu": [{"filename": "a.mp4", "label": {"action": [1], "scene": [2, 3]}}],
    "rawvideo": [{"video_dir": "a", "label": 1, "num_clips": 2, "positive_clip_inds": [0]}],
    "texts": {"a.mp4": ["a dog", "an animal"]},
}
TEXT = {
    "header.csv": "path,label,caption,start_time,end_time\na.mp4,3,a dog,0,2.5\nb.mp4,1,a cat,,\n",
    "list.txt": "a.mp4 3\nb c.mp4 1\n",
    "frames.txt": "some/folder 299 3\nother 12 0\n",
    "several.txt": "a.mp4 0 3\nb.mp4 1\n",
    "kinetics.csv": "label,youtube_id,time_start,time_end,split,is_cc\nyoga,a,1,11,val,0\nrun,b,2.5,12,val,1\n",
    "ucf.txt": "Archery/v_Archery_g08_c01.avi 1\nBiking/v_Biking_g08_c02.avi 2\n",
    "jsfusion.csv": "key,vid_key,video_id,sentence\nret0,msr1,video1,a dog\nret1,msr2,video2,a cat\n",
    "msvd.txt": "-4wsuPCjDBc_5_15 a squirrel\nmv89psg6zh4_33_46 a bird\n",
    "egoclip.tsv": "video_uid\tclip_start\tclip_end\tclip_text\ttag_verb\ttag_noun\na\t1\t2\t#C C runs\t[3]\t[4, 5]\n",
    "epic.csv": (
        "participant_id,video_id,start_timestamp,stop_timestamp,narration,verb_class,noun_class\n"
        "P01,P01_01,00:00:00.14,00:00:03.37,open door,3,3\n"
    ),
    "charades.csv": (
        "id,subject,scene,script,descriptions,actions,egocentric\nA,x,y,reads,left,c032 1.5 20.0;c001 0 2,Yes\n"
    ),
    "webvid.csv": "videoid,contentUrl,duration,page_dir,name\n1,u,PT30S,00_50,waves\n",
    "lsmdc.csv": "1_Juno_00.00.32.107-00.00.33.578\t0\t1\t0\t1\tSOMEONE runs.\n",
}
_ODD = [None, 7, -1, 1.5, True, "", "x", [], {}, [None], {"a": None}, "0:1:2:3", [[1]], 10**30]
_PIECES = ["", ",", "\t", "\n", '"', "-1", "x", " ", "[", "1e400", "\x00", "99999999999999999999", "{", ";"]


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        found += _places(part, (*path, key))
    return found


def damaged_json(value: Any, rng: np.random.Generator) -> str:
    """JSON with something in it taken out or replaced."""
    value = copy.deepcopy(value)
    places = _places(value)
    path = places[int(rng.integers(len(places)))]
    odd = _ODD[int(rng.integers(len(_ODD)))]
    if not path:
        return json.dumps(odd)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    if rng.random() < 0.3:
        del parent[path[-1]]
    else:
        parent[path[-1]] = odd
    return json.dumps(value)


def damaged_text(text: str, rng: np.random.Generator) -> str:
    """Text of which a stretch is replaced."""
    start, length = int(rng.integers(len(text))), int(rng.integers(6))
    return text[:start] + _PIECES[int(rng.integers(len(_PIECES)))] + text[start + length :]
