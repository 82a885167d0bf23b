-- SPDX-License-Identifier: MIT
---A short English text, written for this project, that `moonscope doctor` reads when it is given none:
---plain enough for a small model, varied enough that many features fire. One passage per entry.
return {
  [[Once upon a time there was a small red fox named Mia. She lived in a forest beside a cold river. One morning
the snow was deep, and Mia was hungry. She walked to the old mill and asked the miller for bread. "I have only one
loaf," said the miller, "but you may have half of it." Mia thanked him and carried the bread home. On the way she met
a white owl with a broken wing, and she gave him the half of her half. In the spring the owl was well again, and he
showed her where the berries grow. They were friends for many years.]],

  [[Question: Why does it rain?
Answer: The sun warms the sea and the lakes, and some of the water goes up into the air. High above the ground the air
is cold, so the water turns into tiny drops, and many drops make a cloud. When they are too heavy to stay up, they
fall. In winter they may freeze on the way, and then it snows.

Question: How far away is the moon?
Answer: About 384,000 kilometres. A car that drove there at 100 kilometres per hour, day and night, would need 160
days.]],

  [[Dear Lily,

We are at the beach with my brother and the dog. Yesterday it was stormy, so we stayed inside the house, read books
and ate two pies. Today the sun is out. I found a green stone and a purple shell, and Tom saw a big fish near the
boat. I am happy, but I miss you. Please write to us soon and tell us about the school, the garden and the new kitten.

Love, Max]],

  [[To make a simple soup for four people, take one onion, three carrots, two potatoes and a litre of water. Cut the
vegetables into small pieces. Fry the onion in a little butter until it is soft, add the rest, and let it cook for
half an hour over a low fire. Add salt and pepper at the end. If the soup is too thin, mash one of the potatoes; if it
is too thick, add water. It tastes better on the second day.]],

  [["Where were you on Friday night?" the inspector asked.
"At home," said the baker. "I had been working since four in the morning. I went to bed at nine."
"And nobody saw you?"
"My wife did, and the neighbours heard me snore. They complained about it the next day."
The inspector closed his notebook. He did not smile, but he was no longer in a hurry. "Then tell me," he said, "who
else has a key to the shop?"]],

  [[A lighthouse keeper once wrote down the weather every day for thirty years: wind, clouds, waves, and how far he
could see. He never thought that anyone would read it. Long after his death, scientists found the books and typed in
the numbers. They learned how the storms of that coast had changed, which winds came earlier, and in which years the
ice had stayed until May. Careful notes, they said, are a gift to people who are not born yet.]],
}
