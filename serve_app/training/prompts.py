"""What precedes a query, in the words of the published models: `Instruct: {task}\\nQuery:{text}`."""

from __future__ import annotations

DEFAULT = "Given a web search query, retrieve relevant passages that answer the query"

SEARCH = (
    "Given a question, retrieve passages that answer it",
    "Given a question, retrieve documents that help to answer it",
    "Given a query, retrieve relevant documents",
    "Retrieve passages relevant to the search terms",
    "Retrieve relevant text",
    "Find what the user is looking for",
    "Represent the query for retrieving documents",
    "Given some words, find the texts that they stand for",
    "Find documents about the same matter in any language",
    "Given a query, retrieve relevant news titles in any language",
    "Given a subject, retrieve news about it",
    "Given a news topic, retrieve headlines about it",
    "Given a topic in the news, find titles on it",
    "Retrieve articles on the subject of the query, whatever their language",
    "Given a question from a customer, retrieve the entry of the help pages that answers it",
    "Find the answer to the customer's question",
    "Given what a customer writes, find the matching question and answer",
    "Given a problem of a shopper, retrieve the help text for it",
    "Given what a user wants to do, retrieve the command or setting that does it",
    "Given a description of a need, find the matching documentation",
    "Given a task of an administrator, find the command for it",
    "Given a technical question, retrieve the reference entry that answers it",
    "Which command or option does this? Retrieve its documentation",
    "Given a description, find the text that fits it",
)
"""For plain search, beside `DEFAULT`."""

SIMILARITY = (
    "Retrieve semantically similar text",
    "Retrieve semantically similar text.",
    "Find sentences with the same meaning",
    "Given a sentence, retrieve its translations and paraphrases",
)

TOPIC = (
    "Identify the topic or theme of the text",
    "Classify the text by its topic, intent or sentiment",
    "Identify the topic of the given text",
    "Identify the topic or theme of the given news title",
    "Given a headline, find headlines on the same theme",
    "Find texts on the same topic in any language",
    "Identify the category of the text",
    "Identify the field of law of the given case summary",
)

SENTIMENT = (
    "Given a comment, find comments that have the same attitude: praise, complaint or plain facts",
    "Retrieve comments with the same attitude, whatever they are about",
    "Given a remark, retrieve remarks that praise, complain or merely inform as it does, about anything",
    "Classify the attitude of the comment: positive, negative or neutral",
    "Given a review, retrieve reviews expressing the same opinion, whatever the subject",
    "Does the writer praise, complain or inform? Retrieve texts that do the same",
    "Identify the emotion expressed in the comment",
)

SUBJECT = (
    "Given a comment, find comments on the same kind of service, place or product, whatever the attitude",
    "Retrieve comments about the same sort of place, whatever their author thinks of it",
    "Given a remark, retrieve remarks about the same service or product, be it praised or not",
    "Classify what the comment is about: the kind of place, product or service",
    "Given a review, retrieve reviews of the same kind of business, whatever the opinion",
    "What place, product or service is it about? Retrieve texts about the same",
    "Identify the kind of product or service in the comment",
)


def instructed(task: str, text: str) -> str:
    """`text` as a query of `task`."""
    return f"Instruct: {task}\nQuery:{text}"
