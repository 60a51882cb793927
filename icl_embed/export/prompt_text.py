r"""The prompt as one string that any library can tokenise, with the tokens of ``icl_embed.prompts``.

We tokenise segment by segment; others tokenise one string, and would merge across the borders (GPT-2's
splitting turns "\n\n" before a word into two tokens, alone it is one). So the strings carry a mark between
segments, and the exported tokenizer splits at the mark and drops it. The mark is a Unicode noncharacter:
reserved for such internal use, and not found in interchanged text.
"""

from __future__ import annotations

from collections.abc import Sequence

from icl_embed.examples import Example
from icl_embed.prompts import PASSAGE_PROMPT, SEPARATOR, PromptBuilder, clean

MARK = "\ufdd0"


class PromptText:
    """Writes the strings of one prompt builder: its template, its budgets, its tokenizer.

    ``mark`` is empty where the exported tokenizer cannot drop it.
    """

    def __init__(self, builder: PromptBuilder, mark: str = MARK) -> None:
        self.builder = builder
        self.mark = mark
        # A control token is an edge by itself; so are marks elsewhere.
        self.edge = "" if builder.template.special_tokens else mark
        self.is_special = builder.template.special_tokens
        self.space = "" if self.is_special else " "
        self.suffix = "\n<response>" if self.is_special else "\nResponse:"
        self.passage_prompt = PASSAGE_PROMPT if builder.template.passage_prompt else ""
        self.marked_suffix = self.mark + self.suffix
        # Without a mark nothing can break a control string.
        self.control = sorted(_control_strings(builder.tokenizer), key=len, reverse=True) if mark else []

    def head(self, instruction: str) -> str:
        """From the instruction to where the query begins."""
        if self.is_special:
            return f"<instruct>{self.plain(instruction)}\n<query>"
        return f"Instruct: {self.plain(instruction)}\nQuery:"

    def prefix(self, instruction: str, examples: Sequence[Example] = ()) -> str:
        """Everything before a query's text, which follows without a space of its own.

        Examples that overflow the budget are left out, as the prompt builder leaves them out.

        Raises
            ConfigError: the instruction leaves no room for a query.
        """
        head, budgets = self.head(instruction), self.builder.budgets
        query_room = max(1, budgets.example_query_tokens - len(self.builder.head(instruction)))
        shown = examples[: self.builder.prefix(instruction, examples).num_examples]
        text = ""
        for example in shown:
            query = self._cut(example.query, query_room)
            response = self._cut(example.response, budgets.example_response_tokens)
            text += f"{head}{self.edge}{query}{self.marked_suffix}{self.edge}{response}"
            text += f"{self.mark}{SEPARATOR}{self.mark}"
        return f"{text}{head}{self.edge}{self.space}"

    def query(self, prefix: str, text: str) -> str:
        """A whole query; the exported tokenizer puts BOS before it and EOS after it."""
        return f"{prefix}{self.plain(text)}{self.marked_suffix}"

    def passage(self, text: str) -> str:
        """A whole passage, likewise."""
        return f"{self.plain(text)}{self.mark}{self.passage_prompt}"

    def plain(self, text: str) -> str:
        """The text with every control string broken by a mark: nobody's text may act as a token of ours."""
        text = clean(text)
        for control in self.control:
            text = text.replace(control, control[0] + self.mark + control[1:])
        return text

    def _cut(self, text: str, room: int) -> str:
        """An example's text with its space, within its budget."""
        tokens = self.builder.tokenize([self.builder.space + text])[0]
        if len(tokens) > room:
            text = self.builder.tokenizer.decode(tokens[:room], clean_up_tokenization_spaces=False)
            text = text.removeprefix(self.builder.space)
        return self.space + self.plain(text)

    def chat_template(self) -> str:
        """The prompt as a chat template: after a system message a text is a query, else a passage.

        This is how a query gets its suffix in libraries whose prompts are prefixes only. BOS and EOS are part
        of it, because nobody adds special tokens to a rendered chat.
        """
        breaking = "".join(
            f".replace({control!a}, {control[0] + self.mark + control[1:]!a})" for control in self.control
        )
        bos = "{{ bos_token }}" if self.builder.bos else ""
        return (
            f"{bos}{{%- if messages[0]['role'] == 'system' -%}}"
            f"{{{{ messages[0]['content'] }}}}{{{{ messages[-1]['content']{breaking} }}}}"
            f"{{{{ {self.marked_suffix + self.edge!a} }}}}"
            f"{{%- else -%}}{{{{ messages[-1]['content']{breaking} }}}}"
            f"{{{{ {self.mark + self.passage_prompt + self.mark!a} }}}}"
            "{%- endif -%}{{ eos_token }}"
        )


def _control_strings(tokenizer: object) -> list[str]:
    """The strings that the tokenizer takes for special tokens wherever they stand."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [token.content for token in added.values() if token.special and len(token.content) > 1]
