"""Cosine distance between what a teacher says of each photo and the mean of all it says: what a student reaches that has learnt
only the mean. Run: python recipes/mini/mean_answer.py runs/cache (a folder of `samclip teach`); needs numpy.
"""
import glob
import sys
import tarfile

import numpy as np

rows = []
for path in glob.glob(sys.argv[1] + "/*/answers-*.tar"):
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith(".safetensors"):
                data = tar.extractfile(member).read()
                rows.append(np.frombuffer(data[8 + int.from_bytes(data[:8], "little"):], np.float16).astype(float))
rows = np.array(rows)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
mean = rows.mean(0)
print(len(rows), "answers, cosine distance of their mean:", (1 - rows @ mean / np.linalg.norm(mean)).mean().round(3))
