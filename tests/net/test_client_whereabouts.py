from tim_trio.net.client.address import Address
from tim_trio.net.client.whereabouts import Whereabouts

A, B, C = (Address(name, 7600) for name in "abc")
TOLD = ["tim://a", "tim://b:7600", "tims://a:7601", "wss://a:7681", "tim://c", "nonsense"]


def test_alone_it_has_one_place() -> None:
    whereabouts = Whereabouts()
    assert whereabouts.after_a_loss() == whereabouts.on_leaving() == [None]
    assert whereabouts.after_a_loss(is_ill=True) == [None]


def test_it_knows_the_other_nodes_in_any_order() -> None:
    whereabouts = Whereabouts()
    whereabouts.learn(TOLD)
    orders = {tuple(whereabouts.after_a_loss()) for _ in range(200)}
    assert len(orders) == 6
    assert all(ways[0] is None and {*ways[1:]} == {A, B, C} for ways in orders)
    assert {ways[-1] for ways in (whereabouts.after_a_loss(is_ill=True),)} == {None}
    assert {*whereabouts.on_leaving()} == {A, B, C}
    whereabouts.learn(["tim://b"])
    assert whereabouts.after_a_loss() == [None, B]
    whereabouts.learn([])
    assert whereabouts.on_leaving() == [None]


def test_it_goes_first_where_it_is_sent_and_knows_the_way_home() -> None:
    whereabouts = Whereabouts()
    whereabouts.learn(["tim://b"])
    whereabouts.send_to("a:7600")
    whereabouts.send_to("")
    assert whereabouts.on_leaving() == [A, B]
    assert whereabouts.after_a_loss() == [None, A, B]
    whereabouts.arrive(A)
    assert {*whereabouts.on_leaving()} == {None, B}
    first, *rest = whereabouts.after_a_loss()
    assert first == A and {*rest} == {None, B}


def test_never_without_tls() -> None:
    whereabouts = Whereabouts(tls=True)
    whereabouts.learn(TOLD)
    secure = Address("a", 7601, tls=True)
    assert whereabouts.on_leaving() == [secure]
    whereabouts.send_to("c:7600")
    assert whereabouts.on_leaving() == [Address("c", 7600, tls=True), secure]
