"""The prefix is data: a changed character changes every picture."""

from hashlib import sha256

from latpix.captions.prompt_prefix import NEGATIVE_PROMPT, PREFIX


def test_the_prefix_is_eight_lines_and_ends_with_a_space_to_the_character():
    assert len(PREFIX.split("\n")) == 8
    assert PREFIX.endswith("\nUser Prompt: ")
    assert sha256(PREFIX.encode()).hexdigest()[:16] == "62b9ab89eebb0ac5"


def test_the_negative_prompt_is_the_one_of_training_to_the_character():
    assert NEGATIVE_PROMPT.count(", ") == 15
    assert sha256(NEGATIVE_PROMPT.encode()).hexdigest()[:16] == "3fbcee537cdf9114"
