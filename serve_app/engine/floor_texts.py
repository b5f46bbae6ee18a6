"""Texts that a quantised model is held to: short and long, queries and documents, in the languages and shapes that services see."""

from __future__ import annotations

_QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

TEXTS = (
    "Hello",
    "refund",
    "你好",
    "404",
    "Where is my order?",
    "How do I change the e-mail address of my account?",
    _QUERY + "cheapest way to heat an old house",
    _QUERY + "¿Cuándo abre la biblioteca los domingos?",
    _QUERY + "東京から京都までの行き方",
    "重力使物体相互吸引,行星因此绕着太阳运行。",
    "La réunion de mardi est reportée à jeudi, même heure, même salle.",
    "Die Rechnung vom 3. März ist noch nicht bezahlt; bitte prüfen Sie den Betrag von 1.249,50 €.",
    "El tren sale a las 7:45 y llega tres horas después, con una parada en Zaragoza.",
    "会議の資料は金曜日までに共有フォルダへ入れてください。",
    "Доставка занимает от двух до пяти рабочих дней.",
    "يمكن إرجاع المنتج خلال ثلاثين يوما من تاريخ الشراء.",
    "मौसम विभाग ने कल भारी बारिश की चेतावनी दी है।",
    "def mean(values):\n    if not values:\n        raise ValueError('no values')\n    return sum(values) / len(values)",
    "SELECT name, COUNT(*) FROM orders WHERE placed > '2024-01-01' GROUP BY name HAVING COUNT(*) > 3;",
    '{"id": 7, "tags": ["new", "sale"], "price": {"amount": 19.99, "currency": "EUR"}, "in_stock": true}',
    "!!! ??? ... --- *** ((( ))) 🙂🙃🚀 0000000000 aaaaaaaaaa",
    "Water boils at a lower temperature on a mountain, because the air presses on it less. Cooks who live high up "
    "know this: pasta takes longer, tea tastes flat, and recipes for bread have to be changed, since dough rises "
    "faster when there is less weight above it.",
    "这份合同自双方签字之日起生效,有效期三年。任何一方希望提前终止,须至少提前九十天以书面形式通知对方,并结清所有"
    "未付款项。因不可抗力造成的延误不视为违约,但受影响的一方应当及时说明情况并采取合理措施减少损失。",
    "The patient, a 54-year-old man, reported a dry cough that had begun three weeks earlier. He had no fever, had "
    "not travelled, and took medicine for high blood pressure. His lungs were clear on the X-ray. After the doctor "
    "replaced one tablet by another of a different kind, the cough went away within ten days, and it has not come "
    "back since. He was told to measure his blood pressure every morning for a month and to return with the list.",
)
