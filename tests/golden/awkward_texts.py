"""Texts that tokenizers get wrong, grouped by what is awkward about them."""

SPACES = [
    *range(0x09, 0x0E),
    0x1C,
    0x1F,
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
]
SPACES += [0x202F, 0x205F, 0x3000]
INVISIBLE = [0x00, 0x01, 0x08, 0x1B, 0x7F, 0x80, 0x9F, 0xAD, 0x034F, 0x0600, 0x061C, 0x115F, 0x180E]
INVISIBLE += [
    *range(0x200B, 0x2010),
    0x202E,
    0x2060,
    0x2066,
    0x3164,
    0xFE0F,
    0xFEFF,
    0xFFF9,
    0xFFFD,
]
INVISIBLE += [0xFFFF, 0x1D173, 0xE0001, 0xE0041, 0xE000, 0x10FFFF]

PLAIN = """
a photo of an astronaut riding a horse on mars
A Photo Of AN ASTRONAUT
portrait of a cat, oil on canvas, 4k, trending on artstation
(masterpiece:1.2), [best quality], {{{detailed}}} <lora:thing:0.8>
a red car -- a blue car; a "green" car: a 'white' car?
x
Ab
supercalifragilisticexpialidocious
Donaudampfschifffahrtsgesellschaftskapitän
pneumonoultramicroscopicsilicovolcanoconiosis
https://example.org/a/b?c=d&e=f#g
user@example.com, #hashtag @mention
C:\\Windows\\System32\\cmd.exe
print("hello", x[0] ** 2 != y)  # code
snake_case camelCase kebab-case SCREAMING_CASE
e=mc^2; a^2+b^2=c^2; 3.14159; 1e-6; 0xFF; 50%; $9.99; 1,000,000
1234567890
2026-11-23T03:45:00Z
mp3 h264 4x4 b2b 3D R2D2 x86_64
1st 2nd 3rd 4th
"""

CONTRACTIONS = """
don't can't won't it's we're you've I'm she'll he'd y'all
DON'T IT'S WE'RE YOU'VE I'M SHE'LL HE'D
's 't 're 've 'm 'll 'd
'S'T'RE
rock'n'roll o'clock 'twas 'cause
it''s it'''s ''s' '''
don’t it’s (typographic)
'sit 'most 'dare 'river 'very 'llama
"'s" '"s' !'s ?'ll -'re
l'été d'or qu'il
'ſ 'ſtraße it'ſ
"""

PUNCTUATION = """
!
!!
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
...
. . .
?!?!?!
-----=====_____+++++*****/////
~`@#$%^&*()_+-={}[]|:;"'<>,.?/
\\\\n \\t \\u0041
«guillemets» „quotes“ ‚low‘ ‹x›
– — ― … • · † ‡ § ¶ © ® ™ ° ª º
€ £ ¥ ¢ ₿ ₽ ₹
← ↑ → ↓ ⇒ ∀ ∃ ∈ ∑ ∏ √ ∞ ≠ ≤ ≥ ±
¿qué? ¡hola!
½ ¼ ² ³ ① ⑳ Ⅷ ⅷ ㊿ ٣ ४ 五
，。！？；：「」『』（）【】《》
</w> a</w> </w>b <w> < /w >
Ġ Ċ ĠA ÃŁ
_ __ ___ a_b _a_
;) :-) <3 ^_^ ¯\\_(ツ)_/¯ (╯°□°)╯︵ ┻━┻
"""

ACCENTS = """
café naïve résumé coöperate Zoë façade jalapeño
cafe\u0301 nai\u0308ve re\u0301sume\u0301
\u0301 \u0301a a\u0301\u0327 a\u0327\u0301
A\u030a Å \u212b
ﬁ ﬂ ﬀ ﬃ ſt ĳ Ǆ ǅ ǆ
straße STRASSE ẞ Straẞe
İstanbul ISPARTA ıspanak I\u0307 i\u0307
ΟΔΟΣ Σίσυφος ΣΑΣ ΑΣ. ς σ Σ
ΆΈΉΊ ΐΰ ώ
ÀÁÂÃÄÅÆÇÈÉÊË ÐÑÒÓÔÕÖØÙÚÛÜÝÞ
ąćęłńóśźż ĄĆĘŁŃÓŚŹŻ
Příliš žluťoučký kůň úpěl ďábelské ódy
Łódź Győr Đakovo Ħal
ǰ ẖ ẗ ẘ ẙ ŉ
Z\u0335\u0321\u0322a\u0335\u031b\u0322l\u0334\u0322g\u0338\u0321o\u0336\u0322
q\u0307\u0323 q\u0323\u0307
\u1e9b\u0323 \u212a \u2126 \u2160
Ａｂｃ１２３！ｶﾞ
𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒳 𝟙𝟚𝟛 🅰 🄰
Ꭰ ꭰ Ა ა Ⴀ Ω ꙁ Ꙁ Ⱥ ⱥ
𐐀𐐨 𞤀𞤢
"""

SCRIPTS = """
一只可爱的猫
中文，标点。混合English和123
日本語のテキスト、カタカナ、ひらがな
が か\u3099 ﾊﾟ
한국어 \u1112\u1161\u11ab\u1100\u1173\u11af
مرحبا بالعالم
سَلَامٌ عَلَيْكُم ١٢٣
שָׁלוֹם עולם
हिन्दी में पाठ क़ \u0915\u093c
বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල
ภาษาไทย ก็ น้ำ
ລາວ မြန်မာ ខ្មែរ བོད་ཡིག
Русский ТЕКСТ Ёлка Йод И\u0306
Українська Ґ Ї Є
Ελληνικά κείμενο
Հայերեն ქართული አማርኛ
Tiếng Việt Nguyễn Tie\u0302\u0301ng Vie\u0323\u0302t
ᚠᚢᚦ 𓀀𓂀 𒀀 𐎀
ᏣᎳᎩ ᓀᐦᐃᔭᐍᐏᐣ ᠮᠣᠩᠭᠣᠯ
𠮷野家 𪚥 \uf900 \u2f800 \U0002f800
\u0958 \u0344 \u2adc \ufb1d \ufb4f
"""

EMOJI = """
😀
😀😃😄😁
a cat 🐱 and a dog 🐶.
👨\u200d👩\u200d👧\u200d👦 family
👩🏽\u200d🚀 astronaut
🏳\ufe0f\u200d🌈 🏴\u200d☠\ufe0f
🇫🇷🇯🇵 🇺
❤\ufe0f ❤ ☃ ☂\ufe0f ✂
1\ufe0f\u20e3 #\ufe0f\u20e3 *\ufe0f\u20e3
👍🏿👎🏻
🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f
🤷\u200d♂\ufe0f🤦\u200d♀\ufe0f
cat🐱dog🐶
🧑\u200d🎨!!!🎨
♠♥♦♣ ♪♫ ☯ ⚡ ⭐ 🎄2️⃣
"""

ENTITIES = """
&amp; &lt; &gt; &quot; &apos; &nbsp;
&amp;amp; &amp;lt;b&amp;gt; &amp;amp;amp;
&#39; &#x27; &#8217; &#x1F600; &#0; &#x110000; &#xD800;
Tom &amp; Jerry&#39;s &copy; 2020
e&#769; &eacute; &Eacute; &Aring;
&notanentity; &am &ampx &lt
AT&T R&D Q&A &
<b>bold</b> <br/> <!-- c -->
&lt;|endoftext|&gt; &amp;lt;|endoftext|&amp;gt;
&#32;&#9;x&#10;
x < y &amp;amp; z &amp;lt;b&amp;gt;
<b>&amp;amp;amp;</b>
"""

MOJIBAKE = """
schÃ¶n sÃ£o cafÃ© donâ€™t
âœ” No problems
l\u2019humanitÃ© ðŸ˜€
\u001b[31mred\u001b[0m
ﬁne ﬂag ｆｕｌｌ
\u201cquoted\u201d \u2018single\u2019
Ã Â â€
"""

SPECIAL = """
<|endoftext|>
<|startoftext|>
a <|endoftext|> b
a<|endoftext|>b
<|endoftext|><|endoftext|>
<|startoftext|>a cat<|endoftext|>
<|ENDOFTEXT|> <|StartOfText|>
<|ENDOFTEXT|>!!
!!<|EndOfText|>
!!<|endoftext|>!!
<| endoftext |> <|endoftext <endoftext> endoftext|> |endoftext|
<|endoftext|>'s <|endoftext|>9
<|endofte\u0301xt|> <|end\u200boftext|>
\uff1c|endoftext|\uff1e
<|<|endoftext|>|>
startoftext endoftext <|unk|> <|pad|>
"""


def texts():
    """All texts, in a fixed order."""
    groups = (
        PLAIN, CONTRACTIONS, PUNCTUATION, ACCENTS, SCRIPTS, EMOJI, ENTITIES, MOJIBAKE, SPECIAL
    )  # fmt: skip
    found = [line for group in groups for line in group.split("\n") if line]
    found += [
        "",
        " ",
        "   ",
        "\n\n",
        " leading",
        "trailing ",
        "  two  spaces  ",
        "tab\tand\nline\r\n",
    ]
    found += [f"a{chr(code)}b {chr(code)} c{chr(code)}" for code in SPACES + INVISIBLE]
    found += [
        character * 300 for character in ("a", "ab", "!", "1", "é", "猫", "🐱", " ", "\u0301")
    ]
    found += ["abcdefghijklmnopqrstuvwxyz" * 20, "qzxj" * 100, "the quick brown fox " * 30]
    return found
