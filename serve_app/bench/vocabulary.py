"""Words to make texts of, in four languages: a sentence is one of a language's patterns with its blanks filled in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """`{who}`, `{does}`, `{what}`, `{where}` and `{when}` are the blanks of a pattern. `joint` stands between sentences. Lengths of
    texts count words, or characters where the language writes none apart."""

    code: str
    patterns: tuple[str, ...]
    questions: tuple[str, ...]
    blanks: dict[str, tuple[str, ...]]
    joint: str = " "
    counts_characters: bool = False


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.strip().split("|"))


ENGLISH = Language(
    "en",
    (
        "{who} {does} {what} {where} {when}.",
        "{when}, {who} {does} {what} {where}.",
        "Although {who} {does} {what} {where}, nobody noticed it {when}.",
        "{where}, {who} {does} {what}, which surprised everyone {when}.",
        "It was {when} that {who} {does} {what}.",
    ),
    (
        "How can {who} find {what} {where}?",
        "Which rules apply to {what} {where} {when}?",
        "What does {who} pay for {what} {where}?",
        "{what} {where} compared",
        "best {what} {when}",
        "Why was {what} closed {where}?",
    ),
    {
        "who": _words(
            "the old librarian|a young engineer|the harbour master|our neighbour|the night nurse|a retired pilot|the city council"
            "|the new manager|a travelling musician|the chief accountant|a group of students|the museum's director|the baker"
            "|an insurance agent|the research team|a local farmer"
        ),
        "does": _words(
            "repaired|described|sold|photographed|compared|measured|delivered|forgot|translated|recommended|examined|replaced"
            "|painted|returned|collected|explained"
        ),
        "what": _words(
            "the broken telescope|a box of letters|the annual report|two wooden boats|the fastest train|a recipe for plum cake"
            "|the water pumps|an unpaid invoice|the history of the bridge|seven maps|the safety rules|a pair of winter boots"
            "|the solar panels|a contract of sale|the heating system|a collection of coins"
        ),
        "where": _words(
            "in the harbour|at the central station|near the northern gate|in a small village|on the second floor|behind the school"
            "|at the market|in the mountains|by the river|in the archive|at the airport|in the old town|on the island"
            "|in the laboratory|at the border|under the bridge"
        ),
        "when": _words(
            "last winter|before sunrise|during the festival|after the long strike|in early May|on Thursday|ten years ago"
            "|at the end of the quarter|during the night shift|after the first frost|twice a week|in the summer of 1987"
        ),
    },
)

SPANISH = Language(
    "es",
    (
        "{who} {does} {what} {where} {when}.",
        "{when}, {who} {does} {what} {where}.",
        "Aunque {who} {does} {what} {where}, nadie lo supo {when}.",
        "Fue {when} cuando {who} {does} {what}.",
    ),
    (
        "¿Cómo encuentra {who} {what} {where}?",
        "¿Qué reglas valen para {what} {where}?",
        "¿Cuánto cuesta {what} {where} {when}?",
        "comparar {what} {where}",
    ),
    {
        "who": _words(
            "el viejo bibliotecario|una joven ingeniera|la capitana del puerto|nuestro vecino|la enfermera de noche|un piloto jubilado"
            "|el ayuntamiento|la nueva directora|un músico viajero|el contable|un grupo de estudiantes|la panadera"
        ),
        "does": _words(
            "reparó|describió|vendió|fotografió|comparó|midió|entregó|olvidó|tradujo|recomendó|examinó|sustituyó|pintó|devolvió"
        ),
        "what": _words(
            "el telescopio roto|una caja de cartas|el informe anual|dos barcas de madera|el tren más rápido|una receta de pastel"
            "|las bombas de agua|una factura sin pagar|la historia del puente|siete mapas|las normas de seguridad"
            "|unas botas de invierno"
        ),
        "where": _words(
            "en el puerto|en la estación central|cerca de la puerta norte|en un pueblo pequeño|en la segunda planta"
            "|detrás de la escuela"
            "|en el mercado|en las montañas|junto al río|en el archivo|en el aeropuerto|en la isla"
        ),
        "when": _words(
            "el invierno pasado|antes del amanecer|durante la fiesta|después de la larga huelga|a principios de mayo|el jueves"
            "|hace diez años|al final del trimestre|dos veces por semana|en el verano de 1987"
        ),
    },
)

CHINESE = Language(
    "zh",
    (
        "{when}，{who}{where}{does}了{what}。",
        "{who}{when}{where}{does}了{what}。",
        "虽然{who}{does}了{what}，但是{when}没有人知道。",
        "{where}，{who}{does}了{what}，大家都很惊讶。",
    ),
    ("{who}怎样{where}找到{what}？", "{what}{where}有什么规定？", "{where}{what}多少钱？", "比较{what}"),
    {
        "who": _words(
            "老图书管理员|年轻的工程师|港口主任|我们的邻居|夜班护士|退休的飞行员|市议会|新经理|旅行音乐家|会计师|一群学生|面包师"
        ),
        "does": _words("修理|描述|出售|拍摄|比较|测量|交付|忘记|翻译|推荐|检查|更换|粉刷|归还"),
        "what": _words(
            "坏了的望远镜|一箱旧信|年度报告|两条木船|最快的列车|李子蛋糕的食谱|水泵|未付的账单|大桥的历史|七张地图|安全规则|冬天的靴子"
        ),
        "where": _words(
            "在港口|在中央车站|在北门附近|在小村庄里|在二楼|在学校后面|在市场上|在山里|在河边|在档案馆|在机场|在岛上"
        ),
        "when": _words("去年冬天|日出之前|节日期间|罢工以后|五月初|星期四|十年前|季度末|每周两次|一九八七年夏天"),
    },
    joint="",
    counts_characters=True,
)

JAPANESE = Language(
    "ja",
    (
        "{when}、{who}は{where}{what}を{does}。",
        "{who}は{when}{where}{what}を{does}。",
        "{who}が{what}を{does}ことを、{when}は誰も知らなかった。",
        "{where}{what}を{does}のは、{who}だった。",
    ),
    (
        "{who}は{where}どうやって{what}を見つけますか。",
        "{what}についての規則は何ですか。",
        "{where}{what}はいくらですか。",
        "{what}の比較",
    ),
    {
        "who": _words(
            "年老いた司書|若い技術者|港の責任者|隣の人|夜勤の看護師|引退した操縦士|市議会|新しい支配人|旅の音楽家|会計士|学生たち|パン職人"
        ),
        "does": _words(
            "修理した|説明した|売った|撮影した|比べた|測った|届けた|忘れた|翻訳した|勧めた|調べた|取り替えた|塗った|返した"
        ),
        "what": _words(
            "壊れた望遠鏡|手紙の箱|年次報告書|二隻の木の船|一番速い列車|すもものケーキの作り方|水のポンプ|未払いの請求書|橋の歴史|七枚の地図"
            "|安全の規則|冬の長靴"
        ),
        "where": _words(
            "港で|中央駅で|北門の近くで|小さな村で|二階で|学校の裏で|市場で|山の中で|川のそばで|資料館で|空港で|島で"
        ),
        "when": _words(
            "去年の冬|日の出前|祭りの間|長いストライキの後|五月の初め|木曜日|十年前|四半期の終わり|週に二回|一九八七年の夏"
        ),
    },
    joint="",
    counts_characters=True,
)

LANGUAGES = {language.code: language for language in (ENGLISH, SPANISH, CHINESE, JAPANESE)}

# What search instructions for the model look like; English whatever the texts' language, as the model's authors advise.
INSTRUCTIONS = (
    "Given a question from a customer of a ferry company, retrieve the passages of the conditions of carriage, the timetable and the"
    " price list that answer it, the ones in force today before those of earlier years, and leave out what is about freight",
    "Given a description of a technical fault in a heating system, retrieve reports of earlier repairs with the same cause, whatever"
    " the maker of the system, and rank reports that name the replaced part above those that only describe what was wrong",
    "Given a legal question in everyday words, retrieve paragraphs of contracts, statutes and court decisions that bear on it, also"
    " where they use other words for the same matter, and do not retrieve texts that merely share its place names or persons",
    "Given a search query of a museum visitor, retrieve the descriptions of objects in the collection that the visitor would want to"
    " see, by their maker, material, period, use or story, and prefer objects that are on display at the moment",
)
