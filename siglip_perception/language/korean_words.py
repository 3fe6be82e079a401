"""The word lists behind the Korean rules."""

from __future__ import annotations

from siglip_perception.types import Where


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _verbs(text: str) -> dict[str, tuple[str, ...]]:
    """ "놓:놓아/놔" -> the plain stem, and its forms before 서, 라 and 줘."""
    entries = (entry.split(":") for entry in text.split())
    return {stem: tuple(forms.split("/")) for stem, forms in entries}


# Particles (조사) by what has to stand before them; the longest that fits is taken off, once.
ANY_PARTICLES = _words(
    """
    에 에다 에다가 에서 에서부터 에서의 에게 에게서 에는 에도 에만 에서는 한테 한테서 께 의 도 만
    만을 하고 하고는 처럼 보다 부터 까지 까지의 마다 밖에 대신 대신에 말고 빼고 제외하고 들을
    들이 들은 들도 끼리 씩 씩만 쯤 이라고 이라니까
    """
)
AFTER_CONSONANT = _words(
    """
    을 은 이 과 으로 으로부터 이랑 이나 이란 이라는 으로는 이요 과의 이든 이랑은
    """
)
AFTER_VOWEL = _words("나 를 는 가 와 로 로부터 랑 로는 요 와의 든 라는")
# After a final ㄹ as after a vowel: 연필로.
AFTER_RIEUL = _words("로 로부터 로는")
# What particles say of a noun: what is acted on, what is spoken of, one of several, where to.
OBJECT = _words("을 를 만을 도 만 들을 들도")
SUBJECT = _words("은 는 이 가 이요 요 들이 들은 이라고 끼리")
JOINING = _words("나 이나 과 와 하고 이랑 랑 과의 와의")
TO_PLACE = _words("에 에다 에다가 로 으로 에는 에도 에만 까지 로는 으로는 마다")
ONTO = _words("에 에다 에다가 에는 에도 에만")
FROM_PLACE = _words("에서 에서부터 에서는 에서의")
# They take the noun before them out: 빨간 컵 말고, 컵이 아니라, 칼 없이.
EXCLUDING = _words(
    """
    말고 말구 말고는 제외하고 제외한 제외하고는 제외 외에 외에는 이외에 이외에는 빼놓고 대신
    대신에 아니라 아니고 아닌 아니야 아니에요 아닙니다 없이
    """
)
# 빼고 does so too; after an object it can also be "take out", unless the rest follow.
EXCEPT, REST = "빼고", _words("모두 전부 다 나머지 나머지를 나머지는 모든 다른")
# Forbidding: 건드리지 마, 만지지 않게, 건드리지마세요, 집으면 안 돼, 집는 대신.
NOT_AFTER_JI = _words("마 말 않 못하")
ASKING = _words("않을래 않겠 않으실")
NEGATED_VERB_ENDING = r"지(?:는|도)?(?:마|말|않|못하)"
NOT_ALLOWED = ("안돼", "안되", "안된", "안됩", "안 돼", "안 되", "안 된", "안 됩")
NEGATIVE_VERBS = _words(
    """
    놔두고 내버려 남겨 조심하 조심해 건너뛰 건너뛸 건너뛰어 피하 피해 피한 피할 무시하 무시해
    무시한 제외하 제외해
    """
)
# 그대로 두고: what is left as it is.
LEAVING = _words("두 둬 둔 둘 놔 놓 내버려")

# Nouns that end like a particle or read like a verb. A longer word that ends in one of them (two
# syllables or more) is safe as well.
PROTECTED = _words(
    """
    가위 바위 키위 거위 더위 추위 종이 고양이 오이 어린이 아이 송이 원숭이 호랑이 거북이 부엉이
    지팡이 손잡이 연필깎이 손톱깎이 목걸이 귀걸이 옷걸이 벽걸이 책꽂이 우산꽂이 연필꽂이 재떨이
    먼지떨이 구이 볶이 놀이 팽이 곰팡이 냉이 달팽이 잠자리채 덩이 뭉치 막대기 괭이 옹이 구렁이
    올챙이 지렁이 강냉이 숭늉 깡통 뚝배기 받침 물받이 턱받이 쓰레받기 병따개 통조림 꽹과리 방망이
    몽둥이 봉이 사과 한과 약과 다과 모과 포도 지도 도로 화로 난로 미로 경로 피리 요가 가로등 마을
    가을 노을 노랑 파랑 빨강 하양 검정 사랑 상의 하의 우의 회의 의자 휴가 작가 화가 상가 은 금 동
    꽃게 집게 조개 게 가게 주게 부채 나무 고기 물고기 불고기 보고서 가지 강아지 두부 주스 주전자
    열쇠 접시 하나 자 집 들 밀 담요 버섯 올리브 밀가루 콩나물 오만 낙타 장도 식도 과도 목도 태도
    카페라떼 라떼 만두 떡볶이 튀김 계란말이 말이 두루마리 휴지 고추 코코아 바나나 파인애플 피아노
    라디오 스테이플러 양념통 장난감 종이컵 카드 칼 통 상자 모자 감자 과자 피자 탁자 액자 국자
    소파 냉장고 창고 금고 망고 광고 보라 주사위 빼빼로 가면 풀 쥐 새우깡 오렌지
    """
)
# Adjectives that end like a particle.
MODIFIERS = _words(
    """
    검은 작은 붉은 밝은 얇은 높은 낮은 좁은 넓은 굵은 짧은 깊은 얕은 젖은 낡은 같은 맑은 묽은
    익은 굽은 남은 가까운 먼 큰 곧은 많은 적은 좋은 늙은 젊은 굳은 옅은 짙은 얼은 녹은 삶은 볶은
    썩은 찢은 반짝이는 빛나는 움직이는 맛있는 재미있는 가는 깎은 묶은
    """
)
# Where things are, to be told apart from what they are; None: it says nothing of a picture.
SIDES = {
    word: where
    for where, text in (
        (Where.RIGHT, "오른쪽 오른편 우측"),
        (Where.LEFT, "왼쪽 왼편 좌측"),
        (None, "모서리 가장자리 구석 바닥면 맞은편 건너편"),
        (Where.MIDDLE, "한가운데 가운데 중앙 중간"),
        (Where.ABOVE, "위쪽 꼭대기"),
        (Where.BELOW, "아래쪽 아래 밑"),
        (Where.FRONT, "앞쪽 앞"),
        (Where.BEHIND, "뒤쪽 뒤"),
        (Where.IN, "안쪽"),
        (Where.NEAR, "가까이 옆쪽 근처 주변 주위 옆면 곁 옆"),
        (Where.BETWEEN, "사이"),
        (Where.FAR, "바깥쪽 바깥"),
        (None, "방향 쪽"),
        (Where.ON, "위"),
        (Where.IN, "안 속"),
        (None, "밖 끝"),
    )
    for word in text.split()
}
# 접시에 가까운 컵, 멀리 있는 컵.
NEARNESS = {"가까운": Where.NEAR, "가까이": Where.NEAR, "가까이에": Where.NEAR} | {
    "먼": Where.FAR,
    "멀리": Where.FAR,
}
BEFORE_NEAR = _words("에 에서 에게 와 과 랑 이랑 하고 로부터 한테")
# After 가장, 제일, 더 they tell apart by size, and stay in the phrase.
SIZES = {"큰": Where.LARGEST, "작은": Where.SMALLEST}
MOST = _words("가장 제일 더 젤")
# The other sides are also joined onto a noun without a space, as people write: 접시위에.
NEVER_FUSED = _words("쪽 끝 방향 밖 곁 바깥")
SIDE_PARTICLES = _words(
    """
    에서부터 에다가 에서의 에서 에다 에는 에도 에 으로부터 으로 로부터 로 의 을 를 은 는 이 가 만
    도
    """
)

DETERMINERS = _words(
    """
    그 이 저 모든 각 각각 다른 어느 어떤 무슨 온 첫 첫번째 두번째 세번째 내 제 네 우리 너의 나의
    """
)
POINTING = _words("그 이 저")
PRONOUNS = _words(
    """
    그것 이것 저것 그거 이거 저거 그걸 이걸 저걸 그건 이건 저건 그게 이게 저게 그곳 이곳 저곳
    거기 여기 저기 나 저 너 우리 내게 제게 네게 나한테 저한테 그대로 이쪽 그쪽 저쪽 이리 그리
    저리 무엇 뭐 누구 누가 어디 어디에 어디에서 어딨어 어딨니 어딨지 어디야 어디지 언제 왜 어떻게
    뭐야 뭐지 뭘 무얼 얼마나 나머지 전부 모두 다 둘 셋 넷 아무거나 아무것 것 거 걸 게 건 거야
    자리 데 곳 수 때 채 대로 중 후 다음 전 번 번째 위치
    """
)
NUMERALS = _words(
    """
    몇 여러 한 두 세 네 다섯 여섯 일곱 여덟 아홉 열 하나 둘 셋 넷 1 2 3 4 5 6 7 8 9 10
    """
)
COUNTING = {"한": 1, "두": 2, "세": 3, "네": 4, "다섯": 5} | {str(n): n for n in range(1, 6)}
ORDINALS = {
    word: i
    for i, text in enumerate(("첫번째 첫째", "두번째 둘째", "세번째 셋째", "네번째 넷째"), start=1)
    for word in text.split()
}
# What is left as it is: 위험하니까 두고.
LEFT_AS_IS = _words("두고 놔두고 내버려두고")
SINGLE = _words("한 하나 1")
# These also name things: "두 컵", but "물 한 컵".
CONTAINERS = _words("컵 병 잔 그릇 통 봉지 박스 캔 조각 송이 대 장")
COUNTERS = _words(
    """
    개야 개지 개니 개예요 개인지 개 잔 병 장 권 자루 마리 조각 명 대 그릇 컵 벌 켤레 송이 통 봉지
    박스 캔
    """
)
# 것 and its contractions with a particle, after a modifier: 빨간 걸.
THINGS = {"것": "것", "거": "것", "걸": "것", "게": "것", "건": "것"}
FILLERS = _words(
    """
    그리고 그런 그런데 그다음 그다음에 다음에 다음으로 그러고 그러면 그럼 그래서 그 후에 먼저
    우선 이제 지금 당장 다시 또 또는 혹은 및 좀 제발 부디 어서 빨리 빠르게 천천히 조심히 정확히
    확실히 조용히 가지런히 완벽히 살며시 조심해서 조심스레 살살 살짝 가만히 가볍게 부드럽게
    안전하게 똑바로 바로 곧바로 곧 잘 꼭 한번 같이 함께 서로 나란히 나서 나면 혹시 아마 정말 아주
    매우 너무 가장 제일 약간 조금 더 덜 안녕 안녕하세요 로봇아 자 응 네 아니 예 얘 야 줄래 방금
    아까 미리 계속 멀리 근데 하지만 그러나 위해 위하여 대해 대한 관해 통해 향해 향하여 반대로
    완전히 거꾸로 절대 절대로 결코 대신 대신에 없이 안돼 안돼요 안됩니다 안된다 안되 옮겨서
    목말라 배고파 똑같이 마찬가지로 추워 더워 맨 조금만 꾹 꽉 툭 톡 톡톡 슬쩍 쭉 딱 확 휙 푹 탁
    쏙 막 그냥 걍 냉큼 후딱 빨랑 젤 쫌 좋겠어 좋겠어요 좋겠다 좋겠네 좋겠는데 좋겠습니다 음 어
    저기요 야야 여보세요 보이게 잠깐 잠시 얼른 높이 마 마라 마세요 마요 말아 말아라 말아요
    마십시오
    """
)
# 시계 방향으로, 반시계 방향으로.
TURNS = _words("시계 반시계")
ALL = _words("모두 전부 다")
ADVERB_ENDINGS = _words(
    """
    별로 일렬로 차례대로 순서대로 제대로 마음대로 반으로 절반으로 하니 스럽게 하게 롭게 르게 리게
    싸게 볍게 럽게 깝게 둥글게
    """
)

# Verbs that put something somewhere.
PLACING = _verbs(
    """
    놓:놓아/놔 두:두어/둬 넣:넣어 옮기:옮겨 올리:올려 쌓:쌓아 버리:버려 담:담아 붓:부어 따르:따라
    꽂:꽂아 끼우:끼워 끼:끼워 세우:세워 눕히:눕혀 걸:걸어 붙이:붙여 얹:얹어 내리:내려 던지:던져
    이동하:이동해 이동시키:이동시켜 배치하:배치해 정리하:정리해 나르:날라 싣:실어 보내:보내
    가져가:가져가 가져오:가져와 가져다:가져다 갖다:갖다 데려가:데려가 밀:밀어 꽂아넣:꽂아넣어
    겹치:겹쳐 포개:포개 치우:치워 돌려놓:돌려놔 뿌리:뿌려 삽입하:삽입해 놓이:놓여 전달하:전달해
    옮겨담:옮겨담아 매달:매달아 심:심어 박:박아 묻:묻어 숨기:숨겨 기대:기대 앉히:앉혀 널:널어
    감:감아 싸:싸 깨:깨 짜:짜 끌:끌어 모으:모아 집어넣:집어넣어 밀어넣:밀어넣어 늘어놓:늘어놔
    뿌:뿌려 옮겨놓:옮겨놔 덮:덮어 채우:채워 떨어뜨리:떨어뜨려 맞추:맞춰
    """
)
# All other verbs.
ACTING = _verbs(
    """
    집:집어 잡:잡아 쥐:쥐어 찾:찾아 들:들어 주:주어/줘 당기:당겨 열:열어 닫:닫아 누르:눌러
    보:보아/봐 보이:보여 있:있어 없:없어 하:해/하여 건네:건네 꺼내:꺼내 돌리:돌려 접:접어
    자르:잘라 썰:썰어 씻:씻어 닦:닦아 섞:섞어 젓:저어 가리키:가리켜 알리:알려 말하:말해
    뒤집:뒤집어 떼:떼/떼어 베:베/베어 대:대 재:재 빼:빼 켜:켜 끄:꺼 만지:만져 비우:비워
    확인하:확인해 감지하:감지해 인식하:인식해 원하:원해 필요하:필요해 선택하:선택해 고르:골라
    세:세 흔들:흔들어 굴리:굴려 따:따 펴:펴 피하:피해 멈추:멈춰 시작하:시작해 추적하:추적해
    따라가:따라가 가:가 오:와 줍:주워 살피:살펴 탐색하:탐색해 검색하:검색해 표시하:표시해
    설명하:설명해 건드리:건드려 두드리:두드려 청소하:청소해 사용하:사용해 이용하:이용해
    분리하:분리해 제거하:제거해 들리:들려 되:되어/돼 않:않아 말:말아 싶:싶어 위치하:위치해
    부탁하:부탁해 바라보:바라봐 쳐다보:쳐다봐 안:안아 문지르:문질러 찌르:찔러 뜨:떠 마시:마셔
    먹:먹어 풀:풀어 묶:묶어 건너뛰:건너뛰어 헹구:헹궈 삶:삶아 볶:볶아 튀기:튀겨 펼치:펼쳐 걷:걷어
    두르:둘러 녹이:녹여 기울이:기울여 놔두:놔둬 내버려두:내버려둬 남기:남겨 남겨두:남겨둬
    바꾸:바꿔 색이:색이야 색깔이:색깔이야 주시:주셔 조심하:조심해 가깝:가까워 멀:멀어 뻗:뻗어
    잠그:잠가 조이:조여 뽑:뽑아 깨우:깨워 이:이어 아니:아니 만들:만들어 까:까 입:입어 무겁:무거워
    가볍:가벼워 깎:깎아 굽:구워 데우:데워 끓이:끓여 식히:식혀 말리:말려 다듬:다듬어 벗기:벗겨
    넘기:넘겨 넘어뜨리:넘어뜨려 쓰러뜨리:쓰러뜨려 부수:부숴 깨뜨리:깨뜨려 무너뜨리:무너뜨려
    흘리:흘려 쏟:쏟아 엎:엎어 나누:나눠 골라내:골라내 가르:갈라 벌리:벌려 비틀:비틀어 짚:짚어
    긁:긁어 쓸:쓸어 털:털어 빨:빨아 다리:다려 고치:고쳐 끄집어내:끄집어내 건지:건져 뒤지:뒤져
    튕기:튕겨 받:받아 챙기:챙겨 도와주:도와줘 돕:도와 지키:지켜 기다리:기다려 붙잡:붙잡아
    움켜쥐:움켜쥐어 들어올리:들어올려 잡아당기:잡아당겨 끌어당기:끌어당겨 집어들:집어들어
    내려놓:내려놔 무시하:무시해 제외하:제외해 닿:닿아
    """
)
# A verb that no list knows stands after 컵을 or 접시에: as the last word, before 줘 or 봐, before
# another clause; and before 다음에, 후에.
LAST_ENDINGS = _words(
    """
    아 어 여 해 와 워 려 켜 펴 쳐 져 춰 봐 둬 놔 줘 내 라 러 겨 가 자 오 다 까 니 요 래 죠 지 네
    음 기 게 걸 혀 줄래 세요
    """
)
AUXILIARIES = _words("줘 주 줄 줬 봐 볼 보 놔 놓 둬 두 버려 버리 있 달라 마 말 않 못 드")
CONNECTING_ENDINGS = _words(
    """
    고 아서 어서 여서 해서 와서 워서 려서 켜서 펴서 쳐서 져서 춰서 내서 러서 겨서 가서 혀서 며
    면서 면 니까 다가 려고 도록 지만 는데
    """
)
# Any noun makes a verb with one of these: 청소해, 정렬하세요; 하고 alone can be "and".
DOING = _words(
    """
    하니까 한데 했는데 하거나 해 해라 해줘 해줘요 해주세요 해서 해요 해봐 하세요 하라 하자 합니다
    할래 하면 하는 하지 하십시오 하려고 해야 했다 했어 했니 시켜 시켜줘 시켜라 시키고 시키세요
    하게
    """
)
# With these 로 says what with: 뚜껑으로 냄비를 덮어.
COVERING = _words("덮 채우 채워 닦 묶 막")
# People leave 을 out: "파란 병 쓰레기통에 버려" names two things.
OPEN_CONTAINERS = _words(
    """
    접시 그릇 상자 박스 바구니 서랍 쓰레기통 휴지통 재활용통 냉장고 싱크대 쟁반 식탁 테이블 책상
    선반 냄비 통 가방 봉투 탁자 도마 책장 책꽂이 필통 컵 사발
    """
)
SMALL_THINGS = _words(
    """
    컵 병 공 책 접시 그릇 블록 바나나 사과 포도 오렌지 숟가락 포크 칼 나이프 젓가락 가위 펜 연필
    인형 캔 수건 스펀지 종이 열쇠 지우개 머그컵 물병 휴지 뚜껑 상자 큐브 레몬 당근 빵 계란 달걀
    양말
    """
)
PARTICIPLES = _words("은 한 난 운 린 킨 친 진 춘 낸 간 온 본 든 준 둔 넣은")
AFTERWARDS = _words("다음 다음에 후 후에 뒤 뒤에")
# What is only looked at is not moved to a place.
LOOKING = _words(
    """
    들 찾 보 봐 봤 있 없 확인 살펴 살피 알려 말 세 가리 가깝 가까 만지 만져 건드 닿 비 어디
    """
)
# Endings of a stem; FINAL ones change its last syllable (옮기 + ᆯ래 = 옮길래).
STEM_ENDINGS = _words(
    """
    거나 고 고서 고나서 고는 며 으며 면서 으면서 면 으면 세요 으세요 셔요 십시오 으십시오 십시요
    시오 자 지 지는 지도 지마 지마요 지말고 지마라 지마세요 지마십시오 지말아 지말아라 지말아줘
    지말아요 지말아주세요 지말 지않고 지않게 지않도록 지못하게 는 은 을 기 게 게나 니 으니 니까
    으니까 나 나요 는지 는데 은데 냐 느냐 던 던지 도록 러 으러 려고 으려고 려면 으려면 려 라 으라
    거라 너라 고싶어 고싶어요 고있는 고있어 습니다 습니까 는가 는가요 을까 을까요 을래 을래요
    을게 을게요 겠니 겠어 겠어요 겠습니까 겠다 다 다가 는다 어 아 어요 아요 네 네요 죠 지요 는걸
    었던 았던 아야 어야 으라고 라고 으라니까 라니까
    """
)
STEM_FINAL_ENDINGS = _words(
    """
    ᆫ ᆯ ᆫ다 ᆯ까 ᆯ까요 ᆯ래 ᆯ래요 ᆯ게 ᆯ게요 ᆸ니다 ᆸ니까 ᆸ시다 ᆫ가 ᆫ가요 ᆫ데 ᆫ지 ᆷ
    """
)
# Endings of the form before 서, among them the verbs that are joined on: 집어줘, 옮겨놔.
FORM_ENDINGS = _words(
    """
    서 서는 라 요 야 야해 야지 도 도돼 보세요 봐 봐요 봐라 보자 볼래 줘 줘요 줘라 주세요 주십시오
    주라 주고 주겠니 주겠어요 주실래요 주시겠어요 주시겠습니까 줄래 줄래요 줄수 다오 다 다가 다줘
    다주세요 놓고 놓아 놓아라 놓아줘 놓으세요 놓은 놔 놔라 놔줘 둬 두고 두어라 두세요 둔 둘래 가
    가라 가줘 가세요 와 와라 와줘 오세요 올래 지는 진 있는 있니 있나 있나요 있어 있어요 있습니까
    있습니다 있는지 있던
    """
)
FORM_FINAL_ENDINGS = _words(
    """
    ᆻ잖아 ᆻ잖아요 ᆻ으면 ᆻ다 ᆻ니 ᆻ어 ᆻ어요 ᆻ나 ᆻ나요 ᆻ던 ᆻ지 ᆻ습니다 ᆻ습니까 ᆫ ᆸ니다
    """
)
# Verb forms that describe the noun after them, whole, and endings of such forms.
STATES = _words(
    """
    떨어진 숨은 숨겨진 누운 매달린 얹힌 얹혀진 올려진 올라간 앉은 깔린 엎어진 끼인 끼워진 달린
    놓여있는 세워진 넣어둔 둔 놓아둔 놔둔 위치한 놓인 놓여진 담긴 쌓인 꽂힌 걸린 붙은 들어간
    보이는 든 덮인
    """
)
STATE_ENDINGS = _words("있는 있던 없는")
