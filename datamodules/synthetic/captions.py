"""Chinese captions, which MAFW's captioned split files carry beside the English ones."""

from datamodules.synthetic.performance import Performance

_PERSONS = {"man": "一个男人", "woman": "一个女人"}
_FACES = {
    "anger": "紧锁眉头，瞪大眼睛",
    "disgust": "皱起鼻子，撇着嘴",
    "fear": "睁大眼睛，嘴唇发抖",
    "happiness": "嘴角上扬，露出笑容",
    "neutral": "面部放松，目光平静",
    "sadness": "眼里含泪，嘴角下垂",
    "surprise": "扬起眉毛，张大嘴巴",
    "contempt": "斜着嘴角，翻着白眼",
    "anxiety": "咬着嘴唇，目光不定",
    "helplessness": "抬头张望，轻轻摇头",
    "disappointment": "闭上眼睛，低下头",
}
_VOICES = {
    "anger": "大声喊叫",
    "disgust": "发出作呕的声音",
    "fear": "声音又高又颤",
    "happiness": "笑着说话",
    "neutral": "语调平稳",
    "sadness": "低声哭泣",
    "surprise": "倒吸一口气，语调上扬",
    "contempt": "冷冷地哼了一声",
    "anxiety": "说话急促，结结巴巴",
    "helplessness": "声音越来越弱",
    "disappointment": "长长地叹了一口气",
}


def chinese_caption(performance: Performance) -> str:
    """What the clip shows and sounds like, in one sentence."""
    face, voice = _FACES[performance.face_emotion], _VOICES[performance.voice_emotion]
    return f"{_PERSONS[performance.identity.person]}{face}，{voice}。"
