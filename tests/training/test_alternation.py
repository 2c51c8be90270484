import pytest

from latpix.training.alternation import gan_weight, is_students_turn, student_updates


def test_the_student_moves_first_and_then_once_in_six():
    assert [i for i in range(20) if is_students_turn(i)] == [0, 6, 12, 18]
    assert [i for i in range(6) if is_students_turn(i, every=4)] == [0, 4]


def test_a_run_of_three_thousand_iterations_moves_the_student_five_hundred_times():
    assert sum(is_students_turn(i) for i in range(3000)) == 500
    moves = [student_updates(i) for i in range(3000) if is_students_turn(i)]
    assert moves == list(range(500))


def test_the_discriminators_word_grows_from_nothing_over_a_hundred_iterations():
    assert gan_weight(0) == 0
    assert gan_weight(50) == pytest.approx(0.025)
    assert gan_weight(100) == gan_weight(3000) == 0.05
    assert gan_weight(0, warm_up=0) == 0.05
