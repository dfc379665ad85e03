"""labelme with a samclip server behind its AI tools: `python labelme_samclip.py [labelme's arguments]`.

Every model of labelme's lists then is the server: SAMCLIP_URL (http://127.0.0.1:8484), SAMCLIP_API_KEY.
"""

import base64
import io
import json
import os
import urllib.error
import urllib.request

import numpy as np
import osam
import PIL.Image

URL = os.environ.get("SAMCLIP_URL", "http://127.0.0.1:8484")
KEY = os.environ.get("SAMCLIP_API_KEY")


def ask(request: dict) -> dict:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {KEY}"} if KEY else {})
    post = urllib.request.Request(f"{URL}/api/generate", json.dumps(request).encode(), headers)
    try:
        with urllib.request.urlopen(post, timeout=120) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise ValueError(json.load(error)["error"]) from error


def generate(self, request):
    """osam.types.GenerateRequest -> GenerateResponse, by the server."""
    png = io.BytesIO()
    PIL.Image.fromarray(request.image[:, :, :3]).save(png, format="PNG", compress_level=1)
    image = base64.b64encode(png.getvalue()).decode()
    prompt = request.prompt.model_dump() if request.prompt else None
    answer = ask({"model": request.model, "image": image, "prompt": prompt})
    annotations = []
    for item in answer["annotations"]:
        mask = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(item["mask"])))) > 0
        annotations.append(osam.types.Annotation(**{**item, "mask": mask}))
    return osam.types.GenerateResponse(model=self.name, annotations=annotations)


def register():
    """Puts the server behind every model that osam knows; nothing is downloaded."""
    def stand_in(model):
        members = {"name": model.name, "metadata": model.metadata, "_blobs": {}, "generate": generate}
        return type(model.__name__, (osam.types.Model,), members)

    osam.apis.registered_model_types[:] = [stand_in(model) for model in osam.apis.registered_model_types]


if __name__ == "__main__":
    register()
    from labelme.__main__ import main

    main()
