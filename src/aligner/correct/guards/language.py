"""The language of a text, by its script and its commonest words, and corrections that change it."""

from __future__ import annotations

import re
from collections import Counter

from aligner.correct.guards.markdown import read
from aligner.correct.guards.scripts import script_counts

# Words that are common in one language and rare in most others; what two share counts for both.
_COMMON = {
    "english": "the of and to in is that it was for on are with as this be at from have by not but which you they "
    "or an can will your their has its more when what how if there been one would should our we he she",
    "german": "der die das und ist nicht ein eine zu den von mit sich des auf für dem im es auch als an werden aus er "
    "hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber ich wir",
    "french": "le la les de des et est un une du en que qui dans il pour pas au sur ne ce se plus par je avec tout "
    "faire son mais nous comme ou si leur bien être cette vous ils aux sont ont peut ces fait c'est qu'il elle",
    "spanish": "el la los las de que y en un una es por con no para se su al lo como más pero sus le ya este porque "
    "esta entre cuando muy sin sobre ser también me hasta hay donde quien desde todo nos son está fue puede del",
    "italian": "il lo la gli le di che e è un una per non in con si da come anche più ma del della dei nel alla sono "
    "questo questa se ha al dal essere delle degli nella ci suo dalla loro tra può cui sua perché molto fare",
    "portuguese": "o os as de que e é do da em um uma para com não por mais dos das como mas ao ele se na no foi ou "
    "ser quando muito nos já eu também só pelo pela até isso ela entre era depois sem mesmo aos seus são você está",
    "dutch": "de het een en van ik te dat die in is niet zijn op aan met voor er maar om hem dan zou of wat mijn men "
    "dit zo door over ze zich bij ook tot je uit der naar hij heeft als worden kan wordt deze werd meer geen hebben",
    "swedish": "och att det som en på är av för den med till inte om ett har de jag så kan var från men ett vi han när "
    "eller nu sig här vad skulle också efter mycket hade vara bli blir mer ska där alla denna detta genom",
    "danish": "og at det som en på er af for den med til ikke om et har de jeg så kan var fra men vi han når eller nu "
    "sig her hvad skulle også efter meget havde være bliver mere skal der alle denne dette gennem",
    "norwegian": "og at det som en på er av for den med til ikke om et har de jeg så kan var fra men vi han når eller "
    "nå seg her hva skulle også etter mye hadde være blir mer skal der alle denne dette gjennom",
    "polish": "i w nie na się z że do to jest o jak za od po co tak ale przez lub czy może są jego tylko jej być ich "
    "oraz także który która które gdy już tym tego dla ze jako bardzo można więc ten ta",
    "czech": "a v se na je že s z do o to i jako za pro by ale jsou jsem od po tak který která které aby nebo jeho "
    "být při také může však již když bylo byl pouze jejich než co ze ve není",
    "romanian": "și în de la a cu pe nu este că din o un pentru mai sau ca care se au fost sunt ce să dar prin după "
    "fi poate când acest această dintre lui ei ale unei unui sale",
    "turkish": "ve bir bu da de için ile çok daha olarak gibi olan ne var kadar ama sonra en her ben sen o biz siz "
    "değil veya ise mi mı nasıl olduğu olur çünkü göre eden ancak yok",
    "finnish": "ja on ei se että hän oli mutta ovat myös kun tai jos niin kuin voi mitä ole sen tämä joka sitä nyt "
    "vain olla jo ne tämän siitä kanssa minä sinä me te he mukaan",
    "hungarian": "a az és hogy nem is egy van ez meg de csak már ha volt mint azt ki még vagy lehet el kell nagyon "
    "ezt olyan más sem után aki amely minden között",
    "indonesian": "yang dan di dengan untuk tidak ini itu dari dalam akan pada juga ke karena tersebut bisa ada atau "
    "oleh sebagai dapat adalah saya anda mereka kami lebih telah sudah harus",
    "vietnamese": "và của là có không các được một cho trong với này những đã người khi để từ bạn như thể đến về ra "
    "cũng vào nhiều tôi nhưng hoặc nếu hay tại",
}
_LANGUAGES_OF: dict[str, tuple[str, ...]] = {}
for _language, _listed in _COMMON.items():
    for _word in set(_listed.split()):
        _LANGUAGES_OF[_word] = (*_LANGUAGES_OF.get(_word, ()), _language)
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_CODE = re.compile(r"`[^`\n]*+`")
_FEWEST = 8  # common words of a language that a text has before it is said to be in it
_SHORTEST = 10  # letters
_SHARE = 0.2  # of all its words
_LEAD = 2.0  # times as many as the next language's
_ASKED = 2  # common words that are enough in a question, which is short
_MAIN = 0.6  # of the letters are of its main script
# How each language is named, where that is not its English name.
_NAMED = {
    "english": "englisch anglais inglés inglese inglês engels engelska",
    "german": "deutsch allemand alemán tedesco alemão duits tyska",
    "french": "französisch français francés francese francês frans franska",
    "spanish": "spanisch espagnol español castellano spagnolo espanhol spaans spanska",
    "italian": "italienisch italien italiano italiaans italienska",
    "portuguese": "portugiesisch portugais portugués portoghese português brazilian",
    "dutch": "niederländisch néerlandais holandés olandese nederlands flemish",
    "swedish": "schwedisch suédois sueco svenska", "danish": "dänisch danois danés dansk",
    "norwegian": "norwegisch norvégien noruego norsk", "polish": "polnisch polonais polaco polski",
    "czech": "tschechisch tchèque checo česky čeština", "romanian": "rumänisch roumain rumano română",
    "turkish": "türkisch turc turco türkçe", "finnish": "finnisch finnois finlandés suomi suomeksi",
    "hungarian": "ungarisch hongrois húngaro magyar", "indonesian": "bahasa malay", "vietnamese": "tiếng",
}  # fmt: skip
_ABOUT_LANGUAGES = frozenset({
    "translate", "translation", "translated", "translating", "language", "languages", "bilingual", "multilingual",
    "übersetze", "übersetzen", "traduire", "traduis", "traducir", "traduce", "tradurre", "traduci", "traduzir",
})  # fmt: skip


def changes_language(question: str, answer: str, correction: str) -> bool:
    """Whether the correction is in another language than the answer, and the question does not call for it.

    It calls for it where it is in that language itself, names it, or is about translating. Where a text is too short
    or too mixed to tell, nothing is said.
    """
    after = language_of(correction)
    if after is None:
        return False
    before = language_of(answer)
    if before is None or before == after or _is_asked_in(question, after, before):
        return False
    words = {word.lower() for word in _WORD.findall(question)}
    named = {after, *_NAMED.get(after, "").split()}
    return not (words & _ABOUT_LANGUAGES or words & named)


def language_of(text: str) -> str | None:
    """The language of a text: an English name where Latin letters are used, else its script ("japanese" where there is
    kana among them); None where that cannot be told.

    A rule of thumb on its commonest words; code, and what stands in it, does not count.
    """
    prose = _prose(text)
    counts = script_counts(prose)
    if sum(counts.values()) < _SHORTEST:
        return None
    by_script = _of_script(counts)
    if by_script != "latin":
        return by_script
    words, hits = _hits(prose)
    (first, found), (_, other) = [*hits.most_common(2), ("", 0), ("", 0)][:2]
    clear = found >= _FEWEST and found >= _SHARE * words and found >= _LEAD * other
    return first if clear else None


def _is_asked_in(question: str, language: str, other: str) -> bool:
    """Whether a question is in the first language rather than in the other."""
    prose = _prose(question)
    _, hits = _hits(prose)
    return _of_script(script_counts(prose)) == language or hits[language] >= max(_ASKED, hits[other] + 1)


def _prose(text: str) -> str:
    return _CODE.sub(" ", "\n".join(read(text).prose))


def _of_script(counts: Counter[str]) -> str | None:
    """The language that the scripts of letters tell, "latin" where many share theirs, None where they are mixed."""
    total = sum(counts.values())
    kana = counts["Hiragana"] + counts["Katakana"]
    if not total:
        return None
    if kana + counts["Han"] >= _MAIN * total:
        return "japanese" if 5 * kana >= counts["Han"] else "chinese"
    script, most = counts.most_common(1)[0]
    if most < _MAIN * total:
        return None
    return {"Hangul": "korean"}.get(script, script.lower())


def _hits(prose: str) -> tuple[int, Counter[str]]:
    """How many words there are, and how many of them are common in each language."""
    words = _WORD.findall(prose.lower().replace("’", "'"))
    return len(words), Counter(language for word in words for language in _LANGUAGES_OF.get(word, ()))
