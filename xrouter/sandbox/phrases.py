"""The sentences that the sandbox's answers are made of, in both languages of its users."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phrases:
    """`{topic}`, `{name}`, `{result}` and `{count}` are filled in."""

    greeting: str
    welcome: str
    topic: str
    undefined: str
    result: str
    image: str
    thoughts: str
    openings: Sequence[str]
    advice: Sequence[str]
    closings: Sequence[str]


RUSSIAN = Phrases(
    greeting="Здравствуйте! Я модель из песочницы XRouter. Чем могу помочь?",
    welcome="Пожалуйста! Обращайтесь, если появятся ещё вопросы.",
    topic="ваш вопрос",
    undefined="не определено",
    result="Вот что сообщила функция {name}: {result}.",
    image="Изображение получено (вложений: {count}), но песочница не умеет его рассматривать.",
    thoughts="Пользователь спрашивает: «{topic}». Сначала выделю суть, затем составлю короткий план и отвечу по пунктам.",
    openings=(
        "Если коротко, вопрос «{topic}» лучше разобрать по шагам.",
        "Давайте разберём «{topic}» по порядку.",
        "Вот что стоит знать, когда речь идёт о запросе «{topic}».",
        "На вопрос «{topic}» есть простой ответ и несколько важных уточнений.",
    ),
    advice=(
        "Сначала определите, какой результат нужен и какие данные уже есть.",
        "Затем разбейте задачу на небольшие части и проверьте каждую отдельно.",
        "Обратите внимание на ограничения: сроки, бюджет и качество исходных данных.",
        "Полезно сравнить два-три варианта и записать, почему выбран именно этот.",
        "После этого проверьте результат на простом примере, прежде чем идти дальше.",
        "Сохраните промежуточные шаги: к ним будет легко вернуться.",
        "Если данные противоречат друг другу, начните с самого надёжного источника.",
    ),
    closings=(
        "Если нужно, я уточню любой из этих пунктов.",
        "Напишите, какой шаг разобрать подробнее.",
        "Готов помочь с примером, если он нужен.",
    ),
)

ENGLISH = Phrases(
    greeting="Hello! I am the model of the XRouter sandbox. How can I help?",
    welcome="You are welcome! Let me know if anything else comes up.",
    topic="your question",
    undefined="undefined",
    result="Here is what the function {name} reports: {result}.",
    image="The image has arrived (attachments: {count}), but the sandbox cannot look at it.",
    thoughts='The user asks: "{topic}". I will find the core of it, make a short plan, then answer point by point.',
    openings=(
        'In short, "{topic}" is best taken one step at a time.',
        'Let us go through "{topic}" in order.',
        'Here is what matters most about "{topic}".',
        'There is a simple answer to "{topic}", and a few details worth knowing.',
    ),
    advice=(
        "First decide what result you need and which data you already have.",
        "Then split the task into small parts and check each one on its own.",
        "Mind the constraints: time, budget and the quality of the input.",
        "It helps to compare two or three options and note why one of them wins.",
        "After that, try the result on a simple example before going on.",
        "Keep the intermediate steps, so that it is easy to return to them.",
        "Where sources disagree, start from the most reliable one.",
    ),
    closings=(
        "I can go deeper into any of these points.",
        "Tell me which step to look at more closely.",
        "Happy to work through an example if you have one.",
    ),
)
