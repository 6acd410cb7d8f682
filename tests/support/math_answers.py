# ruff: noqa: RUF001
"""What the `math` grader accepts and what it refuses: `answer ;; reference` on each line."""

ACCEPTED = r"""
4i + 3 ;; 3 + 4i
3+4 \cdot i ;; 3 + 4i
odd ;; \text{odd}
Softball, Kickball and Picnic ;; \text{Softball, Kickball, Picnic}
13=x^2+y^2 ;; x^2 + y^2 = 13
5 \text{ hours and } 30 \text{ minutes} ;; 5 \text{ hours and } 30 \text{ minutes}
x=3 \quad \text{or} \quad x=5 ;; 3, 5
x = 3, 5 ;; 3,5
x\in\{3,5\} ;; 3,5
\{3;5\} ;; 3,5
3 \text{ and } 5 ;; 3, 5
(3,5) ;; (3, 5)
3, 5 ;; (3,5)
\left\{3,\,5\right\} ;; \{5,3\}
12{,}5 ;; 12.5
12,5 ;; 12.5
1,234.5 ;; 1234.5
1.234.567 ;; 1234567
1 234,5 ;; 1234.5
\$1,234.50 ;; 1234.5
1234.50 \text{ dollars} ;; \$1234.50
50\text{ cents} ;; \$0.50
0.25 ;; 25\%
\frac{1}{4} ;; 25\%
25\% ;; 0.25
25 percent ;; 25\%
25 ;; 25\%
25\% ;; 25
5,000 \text{ m} ;; 5\text{ km}
90\text{ minutes} ;; 1.5\text{ hours}
\frac{3}{2}\text{ hours} ;; 90\text{ minutes}
36 \text{ in}^2 ;; 36\text{ square inches}
36 \text{ square inches} ;; 36 \text{ in}^2
60\text{ mph} ;; 60 \text{ miles per hour}
60 \frac{\text{km}}{\text{h}} ;; 60\text{ km/h}
60\ \mathrm{km\,h^{-1}} ;; 60\text{ km/h}
9.8\ \mathrm{m/s^2} ;; 9.8
9.8 \text{ m s}^{-2} ;; 9.8 \text{ m/s}^2
(x-1)(x+1) ;; x^2-1
y = x^2-1 ;; x^2-1
f(x) = x^2 - 1 ;; x^2-1
f(x) = x^2 - 1 ;; y = x^2-1
x \neq 2 ;; (-\infty,2)\cup(2,\infty)
x\in\mathbb{R}, x\neq 2 ;; (-\infty,2)\cup(2,\infty)
\mathbb{R}\setminus\{2\} ;; (-\infty,2)\cup(2,\infty)
\text{all real numbers except } 2 ;; (-\infty,2)\cup(2,\infty)
x < 2 \text{ or } x > 2 ;; (-\infty,2)\cup(2,\infty)
x<-1 \text{ or } x>1 ;; (-\infty,-1)\cup(1,\infty)
(-\infty,-1)\cup(1,+\infty) ;; (-\infty,-1)\cup(1,\infty)
|x|>1 ;; (-\infty,-1)\cup(1,\infty)
-1<x<1 ;; (-1,1)
|x|<1 ;; (-1,1)
1>x>-1 ;; (-1,1)
x > -1, x < 1 ;; (-1,1)
x>-1 \text{ and } x<1 ;; (-1,1)
x\geq 3 ;; x \ge 3
3\leq x ;; [3,\infty)
[3,+\infty[ ;; [3,\infty)
[3,\infty[ ;; [3,\infty)
{x | x >= 3} ;; [3,\infty)
\{x\in\mathbb{R}: x\ge 3\} ;; [3,\infty)
x\in[3,\infty) ;; x\ge 3
\{3\}\cup[5,6] ;; [5,6]\cup\{3\}
385_{9} ;; 385_9
385_{\text{nine}} ;; 385_9
385 \text{ (base 9)} ;; 385_9
385\text{ in base }9 ;; 385_9
(385)_{9} ;; 385_{9}
385_{9} ;; 385
A3_{16} ;; \text{A3}_{16}
\text{A3}_{16} ;; A3_{16}
\begin{bmatrix}1&2\\3&4\end{bmatrix} ;; \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\left[\begin{array}{cc}1&2\\3&4\end{array}\right] ;; \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
[[1,2],[3,4]] ;; \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\frac12\begin{pmatrix}2&4\\6&8\end{pmatrix} ;; \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} ;; \begin{bmatrix} 1 \\ 2 \end{bmatrix}
\langle 1,2\rangle ;; \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\begin{pmatrix}0.5\\2\end{pmatrix} ;; \begin{pmatrix} 1/2 \\ 2 \end{pmatrix}
\vec{v} = \begin{pmatrix}1\\2\end{pmatrix} ;; \begin{pmatrix} 1 \\ 2 \end{pmatrix}
1:2 ;; \frac12
\frac{1}{2} ;; 1:2
1 \text{ to } 2 ;; 1:2
2:4 ;; 1:2
6:00 p.m. ;; 6:00 \text{ PM}
6 \text{ PM} ;; 6:00 \text{ p.m.}
18:00 ;; 6:00 \text{ PM}
friday ;; \text{Friday}
\textbf{Friday} ;; Friday
Friday ;; Friday
\mathrm{Friday} ;; \text{Friday}
yes ;; \text{Yes}
\text{Yes.} ;; Yes
\text{an ellipse} ;; \text{ellipse}
(C) ;; \text{C}
\text{Option C} ;; C
\textbf{(C)}~12 ;; \textbf{(C)}
C. 12 ;; (C)
\text{C) } 12 ;; C
\mathbf{C} ;; \text{(C)}
(\text{C}) ;; \textbf{(C)}
c ;; c
\text{B and D} ;; \text{B,D}
A, C ;; A,C
\pm 2 ;; 2, -2
x = \pm 2 ;; -2,2
2, -2 ;; \pm 2
1 \pm \sqrt{3} ;; 1+\sqrt3, 1-\sqrt3
\frac{-1\pm\sqrt{5}}{2} ;; \frac{-1+\sqrt5}{2}, \frac{-1-\sqrt5}{2}
(\pm 1, 2) ;; (1,2),(-1,2)
2^{10} ;; 1024
1024 ;; 2^{10}
10! ;; 3628800
\binom{10}{3} ;; 120
0.\overline{3} ;; \frac13
0.\dot{3} ;; \frac13
0.333\ldots ;; \frac13
0.333... ;; 1/3
\frac{1}{6} ;; 0.1666\dots
0.142857142857… ;; \frac17
2.4545\ldots ;; \frac{27}{11}
.5 ;; \frac12
-.5 ;; -\frac12
+5 ;; 5
\frac{-1}{2} ;; -\frac{1}{2}
\frac{1}{-2} ;; -\frac{1}{2}
-1/2 ;; -\frac{1}{2}
7/3 ;; 2\frac{1}{3}
2 1/3 ;; \frac73
2\tfrac13 ;; 2\frac{1}{3}
2 + \frac13 ;; \frac73
-2\frac13 ;; -\frac{7}{3}
2\text{ and }\frac13 ;; \frac73
2½ ;; 2.5
\sqrt{8} ;; 2\sqrt{2}
2*sqrt(2) ;; 2\sqrt{2}
2√2 ;; 2\sqrt{2}
√8 ;; 2\sqrt2
sqrt(2)/2 ;; \frac{\sqrt{2}}{2}
1/√2 ;; \frac{\sqrt{2}}{2}
\frac{1}{\sqrt 2} ;; \frac{\sqrt{2}}{2}
2^{1/2} ;; \sqrt{2}
\sqrt[3]{2} ;; 2^{1/3}
∛2 ;; \sqrt[3]{2}
3π/4 ;; \frac{3\pi}{4}
\frac34\pi ;; \frac{3\pi}{4}
pi/3 ;; \frac{\pi}{3}
135^\circ ;; 135
\frac{\pi}{3} \text{ radians} ;; \frac{\pi}{3}
e^{i\pi/3} ;; \frac12+\frac{\sqrt3}{2}i
\frac{1+i\sqrt3}{2} ;; \frac12+\frac{\sqrt3}{2}i
cis 60^\circ ;; cis 60^\circ
4.5×10³³ ;; 4.5e33
4.5 \cdot 10^{33} ;; 4.5e33
4.5\text{e}33 ;; 4.5e33
45e32 ;; 4.5e33
4.50e33 ;; 4.5e33
4.5 \times 10^{33}\text{ erg/s} ;; 4.5e33
-1.6e-19 ;; -1.6\times 10^{-19}
10^{-3} ;; 0.001
1\times10^{-3} ;; 1e-3
1.0e-3 ;; 0.001
6.02 \times 10^{23} ;; 6.02e23
2e3 ;; 2000
2000 ;; 2e3
\mathbf{\frac{1}{2}} ;; \frac12
\color{blue}{5} ;; 5
\textcolor{red}{5} ;; 5
\underline{5} ;; 5
{5} ;; 5
\ 5 ;; 5
5\\ ;; 5
5\; ;; 5
`5` ;; 5
5 \checkmark ;; 5
5\quad(\text{cm}) ;; 5
5 (cm) ;; 5\text{ cm}
n = 5 ;; 5
\text{Answer: }5 ;; 5
\text{Total} = 5 ;; 5
\text{Total cost: } \$5 ;; \$5
5 = x ;; 5
x = 2 + 3 = 5 ;; 5
2+3=5 ;; 5
2+3 ;; 5
AB = 5 ;; 5
|AB| = 5 ;; 5
\angle ABC = 50^\circ ;; 50
\sin\theta = \frac12 ;; \frac12
P(A\cap B)=\frac12 ;; \frac12
a_{10} = 5 ;; 5
\log_2 8 = 3 ;; 3
x^2+y^2 = 25 ;; 25
ab=6 ;; 6
\frac{a}{b} = 6 ;; 6
\sum_{k=1}^{n} k = \frac{n(n+1)}{2} ;; \frac{n(n+1)}{2}
\approx 3.14 ;; 3.14
x \approx 3.14 ;; 3.14
\pi \approx 3.14 ;; 3.14
\frac{22}{7}\approx 3.14 ;; \frac{22}{7}
\emptyset ;; \varnothing
\text{no solution} ;; \emptyset
\text{None} ;; \text{none}
\infty ;; \infty
-∞ ;; -\infty
five ;; 5
\sin 30^\circ ;; 1/2
\sin^2 45° ;; \frac12
2\cos(50^\circ) ;; 2\sin 40^\circ
\frac{10}{\tan 36^\circ} ;; 10\tan 54^\circ
1, 2 ;; a = 1, b = 2
1, 2 ;; y = 2, x = 1
2, 1 ;; x_1 = 1, x_2 = 2
b = 2, a = 1 ;; a = 1, b = 2
two ;; 2
Ten ;; 10
\text{six} ;; 6
twenty-five ;; 25
one hundred ;; 100
-7 ;; minus seven
\frac12 ;; \text{one half}
three-fourths ;; 0.75
\text{four} ;; 4
4 ;; \mbox{four}
9^{9^{9}} ;; 9^{9^9}
10^{10^{10}} ;; 10^{10^{10}}
2^{1009} ;; ['$2^{1009}$']
\frac{1}{2} ;; ["0.5", "1/2"]
18 ;; 5 + 13 = 18. #### 18
1,000 ;; 1000
1000 ;; 1,000
(1, 1000) ;; (1, 1,000)
1 000 000 ;; 1{,}000{,}000
1'000'000 ;; 1000000
10,00,000 ;; 1000000
1\_000\_000 ;; 1000000
2.5 million ;; 2500000
2.5 \text{ million} ;; 2{,}500{,}000
\$2.5 million ;; 2500000
(x, y) = (1, 2) ;; (1,2)
x=1, y=2 ;; (1,2)
y=2, x=1 ;; (1,2)
\begin{cases} x = 1 \\ y = 2 \end{cases} ;; (1,2)
(1; 2) ;; (1,2)
(1,2), (3,4) ;; (3,4),(1,2)
\{(1,2),(3,4)\} ;; (1,2),(3,4)
(1,2) \text{ and } (3,4) ;; (1,2), (3,4)
\sin^2 x ;; (\sin x)^2
\ln(x)+C ;; \ln x + C
\frac{x+1}{2} ;; (x+1)/2
x+1/2 ;; x+\frac12
0.5x ;; \frac{x}{2}
x^{-1} ;; \frac1x
a/(b c) ;; \frac{a}{bc}
y-2x=3 ;; y=2x+3
y=2x+3 ;; y = 3+2x
2x-y+3=0 ;; y=2x+3
3x+6y=9 ;; x+2y=3
June 20 ;; \text{June 20}
20 June ;; \text{20 June}
5^{\text{th}} ;; 5
5th ;; 5
-5 ;; − 5
５ ;; 5
x² + 1 ;; x^2+1
033 ;; 33
33 ;; 033
33.0 ;; 33
A ;; A
\text{(A)} ;; A
y = -\frac{5}{2}x - 7 ;; y=-2.5x-7
\operatorname{lcm}(2,3)=6 ;; 6
\tan^{-1}(2) ;; \arctan 2
\arctan(2) ;; \tan^{-1} 2
3\text{ to }1 ;; 3:1
\text{3 to 1} ;; 3:1
\{x: -1\le x\le 1\} ;; [-1,1]
\lfloor 2.5\rfloor ;; 2
60^{\circ}\text{F} ;; 60
12 \text{ square units} ;; 12
12\text{ units}^2 ;; 12\text{ square units}
12\text{ sq units} ;; 12\text{ square units}
12 cm² ;; 12\text{ cm}^2
12\,\mathrm{cm}^{2} ;; 12 \text{ square centimeters}
3/4 \text{ of the cake} ;; \frac34
7 \text{ ways} ;; 7
7 ways ;; 7\text{ ways.}
7 different ways ;; 7\text{ ways.}
1/2, 1/3 ;; \frac13, \frac12
k = 1, 2, 3 ;; 1,2,3
1, 2, \text{ or } 3 ;; 1,2,3
1,2,3 ;; 1, 2, 3
1 \le k \le 3 ;; [1,3]
g(x)\in[-80,82] ;; -80\leq g(x)\leq 82
-80 \le g(x) \le 82 ;; [-80,82]
\mathbb{R} ;; (-\infty,\infty)
\text{all real numbers} ;; (-\infty,\infty)
x \in \mathbb{R} ;; (-\infty,\infty)
0 ;; 0
-0 ;; 0
\text{C}\ 12 ;; C
\text{approximately } 5 ;; 5
¢250 ;; \$2.50
-2 − √3 ;; -2-\sqrt3
½√3 ;; \frac{\sqrt3}{2}
(-oo, -3) U (3, oo) ;; (-\infty,-3)\cup(3,\infty)
1.e3 ;; 1000
5 \mathrm{~km} / \mathrm{h} ;; 5
x_1 = 5 ;; x = 5
\text{Area} = 5 ;; A = 5
\{5\} ;; 5
5 ;; \{5\}
x\in\{5\} ;; 5
(x, y) \in \{(1,2)\} ;; (1,2)
|x| < 3 ;; (-3,3)
(-\infty,1), (2,\infty) ;; (-\infty,1)\cup(2,\infty)
(-\infty,1) \text{ and } (2,\infty) ;; (-\infty,1)\cup(2,\infty)
[1, 2, 3] ;; 1,2,3
18.. ;; 18
\mathbf{**C**} ;; C
-\$5 ;; -5
\$-5 ;; -5
3 m + 2 ;; 3m+2
2 m^2 ;; 2m^2
2 g(x) ;; 2g(x)
5 s - 1 ;; 5s-1
9.8 m/s^2 ;; 9.8
9.8 m/s^2 ;; 9.8\text{ m/s}^2
36 in^2 ;; 36\text{ square inches}
x = 5 m ;; 5\text{ m}
5m ;; 5
14k ;; 14k
0.0 ;; 0
2(13) ;; 26
(2)(13) ;; 26
3(4)(5) ;; 60
2\binom{3}{2} ;; 6
2\cdot\frac{7}{3} ;; \frac{14}{3}
2\frac{7}{3} ;; \frac{14}{3}
two lines ;; \text{two lines}
TWO LINES ;; \text{two lines}
a circle ;; \text{circle}
circle ;; \text{a circle}
2(x^2+y^2)=2(13) ;; x^2+y^2=13
n(n+1)/2 ;; \frac{n^2+n}{2}
x(x+1) ;; x^2+x
2\pi(3) ;; 6\pi
\frac{3}{2}\pi ;; \frac{3\pi}{2}
1\frac12\pi ;; \frac{3\pi}{2}
6\pi\text{ cm}^2 ;; 6\pi
6\pi \text{ square units} ;; 6\pi
5\sqrt{2}\text{ cm} ;; 5\sqrt2
\frac{1}{2} \text{ hour} ;; 30\text{ minutes}
30 min ;; \frac12\text{ hour}
1 hour and 30 minutes ;; 90\text{ minutes}
1\text{ h } 30\text{ min} ;; 90\text{ minutes}
5 feet 6 inches ;; 66\text{ inches}
3.0 \times 10^8 m/s ;; 3e8
3 \times 10^{8} \ \mathrm{m \cdot s^{-1}} ;; 3\times 10^8
$3\times10^{8}$ ;; 300000000
(1,2)\cup(3,4) ;; (3,4)\cup(1,2)
x\in(1,2)\cup(3,4) ;; 1<x<2 \text{ or } 3<x<4
1<x<2, 3<x<4 ;; (1,2)\cup(3,4)
(0,\pi/2) ;; (0, \frac{\pi}{2})
0<\theta<\frac{\pi}{2} ;; (0, \frac{\pi}{2})
-2 \le x \text{ and } x \le 3 ;; [-2,3]
x\ge-2 \land x\le 3 ;; [-2,3]
x \leq 3 \text{ and } x \geq -2 ;; [-2,3]
[-2;3] ;; [-2,3]
]-2;3[ ;; (-2,3)
(-2,3) ;; ]-2,3[
x \in (-2, 3) ;; -2<x<3
\{-2,3\} ;; -2,3
-2 \text{ or } 3 ;; -2,3
-2\text{, }3 ;; -2,3
x_1=-2,\ x_2=3 ;; -2,3
x=-2\text{ and }x=3 ;; -2,3
x = -2 \lor x = 3 ;; -2,3
-2 & 3 ;; -2,3
1 + 2i, 1 - 2i ;; 1 \pm 2i
1\pm2i ;; 1+2i, 1-2i
z = 1 \pm 2i ;; 1 \pm 2i
(3, \tfrac{\pi}{2}) ;; \left( 3, \frac{\pi}{2} \right)
\left(3,\frac{\pi}{2}\right). ;; \left( 3, \frac{\pi}{2} \right)
A=(3,4) ;; (3,4)
3\hat{i}+4\hat{j} ;; 3\hat{i}+4\hat{j}
\begin{pmatrix}3\\4\end{pmatrix} ;; \begin{pmatrix}3\\4\end{pmatrix}
\begin{pmatrix} 3 \\[2pt] 4 \end{pmatrix} ;; \begin{pmatrix}3\\4\end{pmatrix}
\left(\begin{array}{c}3\\4\end{array}\right) ;; \begin{pmatrix}3\\4\end{pmatrix}
\begin{pmatrix} 1/2 & 0 \\ 0 & 1 \end{pmatrix} ;; \begin{pmatrix} \frac12 & 0 \\ 0 & 1 \end{pmatrix}
12.0 ;; 12
12.50 ;; 12.5
\frac{25}{2} ;; 12.5
12\frac{1}{2} ;; 12.5
1,250\% ;; 12.5
\text{12.5} ;; 12.5
\mathrm{12.5} ;; 12.5
$12.50 ;; 12.5
12.50\$ ;; 12.5
\$ 12.50 ;; \$12.5
12.5 USD ;; \$12.50
USD 5 ;; 5
USD 12.50 ;; \$12.50
EUR 5 ;; €5
Rs. 500 ;; 500
Rs 500 ;; ₹500
US\$12.50 ;; \$12.50
\text{Rs. } 12 ;; 12
12 euros ;; €12
\text{£}12 ;; £12
12\text{ pounds} ;; £12
¥12 ;; 12
12 people ;; 12
12\text{ people} ;; 12\text{ persons}
\text{12 people} ;; 12
\text{There are 12 people} ;; 12
\text{Total: } 12 ;; 12
12 \text{ apples in total} ;; 12
12\text{ cm}^{3} ;; 12\text{ cubic centimeters}
12\text{ cc} ;; 12\text{ cm}^3
12\text{ mL} ;; 12\text{ cm}^3
12 \text{ litres} ;; 12\text{ L}
12 \text{ kilometers per hour} ;; 12\text{ km/h}
12 \text{ km per hour} ;; 12\text{ km/h}
20\text{ m/s} ;; 72\text{ km/h}
12 \text{ yrs} ;; 12\text{ years old}
12\text{ years old} ;; 12
7:05 ;; 7:05
7:05\,\text{a.m.} ;; 7:05 \text{ AM}
45^\circ ;; 45\text{ degrees}
45^{o} ;; 45^\circ
45^\text{o} ;; 45^\circ
\ang{45} ;; 45^\circ
\theta = 45^{\circ} ;; 45
45^\circ 30' ;; 45^\circ 30'
45, 135 ;; 45^\circ, 135^\circ
45^\circ \text{ and } 135^\circ ;; 45^\circ, 135^\circ
45^\circ, 135^\circ ;; 45, 135
\frac{\pi}{4} ;; \frac{\pi}{4} \text{ radians}
x=\frac{\pi}{4}+k\pi ;; \frac{\pi}{4}+k\pi
\frac{\pi}{4}+k\pi, k\in\mathbb{Z} ;; \frac{\pi}{4}+k\pi
\frac{\pi}{4}+k\pi\ (k\in\mathbb{Z}) ;; \frac{\pi}{4}+k\pi
A_{n} ;; A_n
a_n = 2n+1 ;; 2n+1
2n + 1, n \ge 1 ;; 2n+1
2n+1 \text{ for } n\ge1 ;; 2n+1
\log_{2}{3} ;; \frac{\ln 3}{\ln 2}
\ln 2 ;; \log_e 2
\frac{\log 3}{\log 2} ;; \log_2 3
e ;; e
\mathrm{e} ;; e
\exp(1) ;; e
\text{undefined} ;; \text{undefined}
\text{does not exist} ;; \text{DNE}
\text{no real solutions} ;; \emptyset
\{\} ;; \emptyset
\text{True} ;; True
\text{true} ;; True
\text{Alice, Bob} ;; \text{Bob, Alice}
\text{Alice} \text{ and } \text{Bob} ;; \text{Alice and Bob}
Bob and Alice ;; \text{Alice and Bob}
ABC ;; \text{ABC}
\triangle ABC ;; \triangle ABC
\overline{AB} ;; \overline{AB}
\overline{AB} ;; AB
27 \text{ or } 3^3 ;; 27
3^3 = 27 ;; 27
27 = 3^3 ;; 27
0.123456789 ;; 0.123456789
1.7320508 ;; \sqrt3
\frac{7}{12} \approx 0.583 ;; \frac{7}{12}
\frac{7}{12} \approx 0.58 ;; \frac{7}{12}
\sqrt{3} \approx 1.732 ;; \sqrt3
\approx 1.73 ;; 1.73
-\frac{3}{4} ;; -0.75
\frac{3}{-4} ;; -0.75
- 3/4 ;; -0.75
−0.75 ;; -\frac{3}{4}
(-3)/4 ;; -\frac34
(x - 1)^{2} + (y + 2)^{2} = 9 ;; (x-1)^2+(y+2)^2=9
x^2 - 2x + y^2 + 4y - 4 = 0 ;; (x-1)^2+(y+2)^2=9
y = 3 ;; y-3=0
y = \frac{1}{2}x + 1 ;; x - 2y + 2 = 0
m=-1/3 ;; -\frac{1}{3}
k > 5 ;; (5,\infty)
k\in(5,\infty) ;; k>5
a \neq 0 ;; a \ne 0
p^2+q^2 ;; q^{2}+p^{2}
10^{-9} ;; 1 \times 10^{-9}
0.000000001 ;; 10^{-9}
7.5\times10^7 ;; 7.5e7
75,000,000 ;; 7.5e7
7.5E7 ;; 75000000
7.5e+07 ;; 7.5e7
7.5\cdot10^{7} ;; 7.5e7
75 \times 10^6 ;; 7.5e7
75\text{ million} ;; 7.5e7
1e16 ;; 1e+16
1.0e+16 ;; 10^{16}
6.626 \times 10^{-34} \text{ J s} ;; 6.626e-34
\left\lbrace 1,2\right\rbrace ;; 1,2
25 per cent ;; 25\%
25 \text{ per cent} ;; 25\%
35\deg ;; 35^\circ
0\le x\le 2, x\ne 1 ;; [0,1)\cup(1,2]
x\in[0,2]\setminus\{1\} ;; [0,1)\cup(1,2]
[0,2]\setminus\{1\} ;; [0,1)\cup(1,2]
x<1 \text{ or } x>3 ;; (-\infty,1)\cup(3,\infty)
x<1, x>3 ;; (-\infty,1)\cup(3,\infty)
x\neq 1, x\neq 2 ;; (-\infty,1)\cup(1,2)\cup(2,\infty)
x\neq 1,2 ;; (-\infty,1)\cup(1,2)\cup(2,\infty)
x\neq 1 \text{ and } x\neq 2 ;; (-\infty,1)\cup(1,2)\cup(2,\infty)
-\infty < x \le 3 ;; (-\infty,3]
(-inf, 3] ;; (-\infty,3]
(−∞, 3] ;; (-\infty,3]
3 \ge x ;; (-\infty,3]
385_\text{nine} ;; 385_9
385_{nine} ;; 385_9
385_{base9} ;; 385_9
4.5 \cdot {10}^{33} ;; 4.5e33
4.5*10**33 ;; 4.5e33
4500000000000000000000000000000000 ;; 4.5e33
4.5\times10^33 ;; 4.5e33
Friday! ;; \text{Friday}
\text{Friday!} ;; \text{Friday}
(1,000, 2,000) ;; (1000, 2000)
1,000, 2,000 ;; 1000, 2000
2\text{ }\frac{2}{3} ;; \frac83
\begin{bmatrix}1 & 2\\ 3 & 4\\ \end{bmatrix} ;; \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\begin{smallmatrix}1 & 2\\ 3 & 4 \end{smallmatrix} ;; \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
5 dollars and 50 cents ;; \$5.50
5\,cm ;; 5
5 square centimeters ;; 5\text{ cm}^2
5\,\text{cm}^2 ;; 5
5 $ ;; \$5
5 \frac{\text{m}}{\text{s}^2} ;; 5\text{ m/s}^2
5\ \text{m}\cdot\text{s}^{-1} ;; 5 \text{ m/s}
5\text{ meters per second} ;; 5 \text{ m/s}
\text{The area is } 5 ;; 5
\text{Area: } 5\text{ cm}^2 ;; 5
\text{Area} = 5\text{ cm}^2 ;; 5
A = 5\ \text{cm}^2 ;; 5
x = 5 \text{ cm} ;; 5
5\ \text{(exact)} ;; 5
\frac{5}{1} ;; 5
5.0 ;; 5
05 ;; 5
\text{5} ;; 5
\emph{5} ;; 5
\large 5 ;; 5
\huge{5} ;; 5
{\bf 5} ;; 5
{\rm 5} ;; 5
\mathrm{5} ;; 5
\texttt{5} ;; 5
5\hspace{1cm} ;; 5
5 \tag{1} ;; 5
5 \tag*{} ;; 5
\displaystyle{\frac{1}{2}} ;; \frac12
\dfrac{1}{2}\text{ or }0.5 ;; \frac12
\cfrac{1}{2} ;; \frac12
1\over 2 ;; \frac12
{1\over 2} ;; \frac12
\frac{1}{2}. ;; \frac12
\frac {1} {2} ;; \frac12
\frac{ 1 }{ 2 } ;; \frac12
\sfrac{1}{2} ;; \frac12
\nicefrac{1}{2} ;; \frac12
1⁄2 ;; \frac12
\sqrt {2} ;; \sqrt2
\sqrt{\,2\,} ;; \sqrt2
2^{0.5} ;; \sqrt2
\frac{\sqrt{6}}{\sqrt{3}} ;; \sqrt2
2\cdot 3^2 ;; 18
x^{2}-1 ;; (x-1)(x+1)
-(1-x^2) ;; x^2-1
x \cdot x - 1 ;; x^2-1
x*x-1 ;; x^2-1
(x+1)*(x-1) ;; x^2-1
\left(x+1\right)\left(x-1\right) ;; x^2-1
(x-1)\cdot(x+1) ;; x^2-1
{(x+1)}{(x-1)} ;; x^2-1
\frac{x^3-x}{x} ;; x^2-1
p(x)=x^2-1 ;; x^2-1
\text{(C)} ;; (C)
\text{C)} ;; C
C: ;; C
C) 12 ;; C
(C) ;; \textbf{(C)}
\textbf{C} ;; \textbf{(C)}
\textbf{(C) } 12 ;; \textbf{(C)}
\text{C. }12 ;; C
\textsf{C} ;; C
Choice C ;; C
option (C) ;; C
\text{The answer is C} ;; C
\text{The correct option is } C ;; C
{10 \choose 3} ;; 120
10 \choose 3 ;; 120
120 ;; {10 \choose 3}
{n \choose 2} ;; \binom{n}{2}
{5 \choose 2}{4 \choose 2} ;; 60
\binom52 ;; 10
{}_5C_2 ;; 10
{}_{5}C_{2} ;; 10
{}^5C_2 ;; 10
{}_5P_2 ;; 20
3 \cdot {}_5C_2 ;; 30
7 \pmod{12} ;; 7 \pmod{12}
7 \pmod{12} ;; 7
7 ;; 7 \pmod{12}
x \equiv 7 \pmod{12} ;; 7
7 ;; x \equiv 7 \pmod{12}
7 (mod 12) ;; 7 \pmod{12}
7 \bmod 12 ;; 7 \pmod{12}
19 \pmod{12} ;; 7 \pmod{12}
4, 1 \pmod 6 ;; 1, 4 \pmod{6}
17 \bmod 5 = 2 ;; 2
5\ \Omega ;; 5
5 Ω ;; 5
5 ;; 5\ \Omega
R = 5\ \Omega ;; 5
5\ \mathrm{k\Omega} ;; 5000\,\Omega
5 \text{ ohms} ;; 5\ \Omega
5\ \mu\text{m} ;; 5
500\ \mu m ;; 0.5\text{ mm}
5\text{ mA} ;; 0.005\text{ A}
a third ;; 1/3
\text{a third} ;; \frac13
one third ;; 1/3
a half ;; \frac12
half ;; 0.5
two thirds ;; \frac23
a quarter ;; \frac14
three quarters ;; 0.75
two and a half ;; \frac52
\frac13 ;; a third
(1,2)^T ;; (1,2)
(1,2) ;; (1,2)^T
(1,2)^{\top} ;; \begin{pmatrix}1\\2\end{pmatrix}
\left[1,2\right]^{\mathsf T} ;; (1,2)
\vec{x} = (1,2)^T ;; (1,2)
\begin{pmatrix}1&2\\3&4\end{pmatrix}^T ;; \begin{pmatrix}1&3\\2&4\end{pmatrix}
\begin{pmatrix}1&2\end{pmatrix}^T ;; \begin{pmatrix}1\\2\end{pmatrix}
0.666667 ;; \frac23
0.666666 ;; \frac23
-0.666667 ;; -\frac23
1.414213 ;; \sqrt2
3.141593 ;; \pi
0.33333333 ;; 0.333333
1,5 ;; 1.5
1,5 ;; \frac32
1, 5 ;; 1,5
100,200 ;; 100, 200
1, 234 ;; 1,234
"""

REFUSED = r"""
\sin 30 ;; 1/2
\tan 20^\circ ;; \tan 70^\circ
2, 1 ;; a = 1, b = 2
1 and 2 ;; A = 2, B = 1
two ;; 10
ten ;; e
USD 5 ;; £5
two thirds ;; 3/2
4i - 3 ;; 3 + 4i
5 ;; 6
-5 ;; 5
5.0001 ;; 5
1/2 ;; 2
50 ;; 0.5
0.5 ;; 50
0.5\% ;; 0.5
25\% ;; 2.5
5\text{ km} ;; 5\text{ m}
5\text{ cm}^2 ;; 5\text{ cm}^3
5\text{ cm} ;; 5\text{ cm}^2
5 \text{ square units} ;; 5\text{ cubic units}
5\text{ hours} ;; 5\text{ minutes}
\$5 ;; 5\text{ cents}
£5 ;; \$5
5\text{ apples} ;; 5 \text{ oranges}
5\text{ apples} ;; 5\text{ hours}
5^\circ ;; 5\text{ radians}
5^\circ\text{C} ;; 5^\circ\text{F}
(2,1) ;; (1,2)
\{1,2\} ;; (1,2)
(1,2) ;; \{1,2\}
[1,2] ;; (1,2)
(1,2] ;; (1,2)
[1,2) ;; [1,2]
(2,1) ;; 1,2
1 ;; 1,2
1,2,3 ;; 1,2
1 \text{ or } 2 \text{ or } 3 ;; 2
1, 2 ;; 2
\{1,2\} ;; 1
x>3 ;; x\ge3
x>3 ;; [3,\infty)
x<3 ;; (3,\infty)
x>3 ;; 3
x\ge 3 ;; 3
x \ne 3 ;; 3
x\ne 3 ;; x=3
-1\le x<1 ;; (-1,1)
x<-1 \text{ and } x>1 ;; (-1,1)
x < 1 ;; (-1,1)
(-\infty,-1)\cup(2,\infty) ;; (-\infty,-1)\cup(1,\infty)
(-\infty,-1)\cap(1,\infty) ;; (-\infty,-1)\cup(1,\infty)
(1,\infty) ;; (-\infty,-1)\cup(1,\infty)
\mathbb{R} ;; (0,\infty)
385_8 ;; 385_9
385_{10} ;; 385_9
320 ;; 385_9
111_2 ;; 111_3
\begin{pmatrix}1&3\\2&4\end{pmatrix} ;; \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\begin{vmatrix}1&2\\3&4\end{vmatrix} ;; \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\begin{pmatrix}1&2\end{pmatrix} ;; \begin{pmatrix} 1 \\ 2 \end{pmatrix}
-\begin{pmatrix}1\\2\end{pmatrix} ;; \begin{pmatrix} 1 \\ 2 \end{pmatrix}
2:1 ;; 1:2
6:00 AM ;; 6:00 \text{ PM}
6:01 \text{ PM} ;; 6:00 \text{ PM}
5:00 \text{ PM} ;; 6:00 \text{ PM}
\text{Thursday} ;; \text{Friday}
\text{not Friday} ;; \text{Friday}
\text{Friday or Saturday} ;; \text{Friday}
\text{It is either Friday or not} ;; \text{Friday}
\text{Friday the 13th} ;; \text{Friday}
D ;; C
(D) ;; C
\text{(D) } 12 ;; C
C, D ;; C
\text{C or D} ;; C
AC ;; CA
E ;; e
N ;; n
X ;; x
x ;; y
\text{A} ;; \text{a}
2a ;; 2b
ab ;; AB
x+y ;; x-y
(x-1)(x+1) ;; x^2+1
(x-1)(x+1)=0 ;; x^2-1
x^2-1=0 ;; x^2+1=0
\frac{1}{x} ;; x
\sin x ;; \cos x
\sqrt{x^2} ;; x
2x=18 ;; 18
x+1=18 ;; 18
x^2 = 18 ;; x=18
y = 5 ;; x = 5
x_1 = 5 ;; x_2 = 5
\text{D}\ 12 ;; C
xy = 5 ;; x = 5
A = 9, CD = 4 ;; AB=9, CD=4
19=18 ;; 18
18=19 ;; 18
1=2=3=7 ;; 7
x=19=18 ;; 18
3+4=8 ;; 8
x=18 \text{ or } 19 ;; 18
9.1 \times 10^{-31} ;; 1.6 \times 10^{-19}
1e-7 ;; 0
0 ;; 1e-10
\frac{1}{2^{98}} ;; \frac{1}{2^{99}}
1.2e-8 ;; 1.3e-8
4.5e33 ;; 4.5e34
4.5 \times 10^{-33} ;; 4.5e33
4.5 ;; 4.5e33
1.0000001 ;; 1
1234567 ;; 1234568
12345678901234567890 ;; 12345678901234567891
2^{1009} ;; 2^{1008}
2^{100}+1 ;; 2^{100}
0.333 ;; \frac13
3.14 ;; \pi
1.41 ;; \sqrt2
2 3 ;; 23
2 3 ;; 6
1 2 ;; 12
1 23 ;; 123
12 34 ;; 1234
1,23 ;; 123
1.241 ;; 1241
1,241 ;; 1.242
2\frac13 ;; \frac23
3\pi ;; 3
5x ;; 5
\{6\} ;; 5
0 ;; 2x+3y=0
2x + 3y ;; 2x+3y=5
1, 2 ;; [1,2]
[1,2] ;; 1, 2
5 \text{ six} ;; 5
5 \text{ or maybe } 6 ;; 5
5 \text{ at least} ;; 5
5 \text{ is incorrect} ;; 5
5 ;; 5m
5 ;; 14k
5m ;; 5n
5k ;; 5
5\pi ;; 5
\text{label} ;; 5
\ldots ;; 5
? ;; 5
\text{answer} ;; 5
5 \text{ is wrong, 6} ;; 5
\text{not } 5 ;; 5
\neg 5 ;; 5
\ne 5 ;; 5
> 5 ;; 5
\text{less than } 5 ;; 5
\text{at least } 5 ;; 5
5 \text{ or more} ;; 5
5\text{ or } 6 ;; 5
5/6 ;; 5
5;6 ;; 5
5, 6 ;; 5
5\text{ million} ;; 5
5\% ;; 5000
9^{9^{9}} ;; 9^{9^{8}}
9^{9^{9}} ;; 5
10^{10^{10}} ;; 10^{10^{9}}
\pm 2 ;; 2
2 ;; \pm 2
\infty ;; -\infty
\infty ;; 5
i ;; -i
1+\sqrt3 ;; 1 \pm\sqrt3
\text{even} ;; \text{odd}
\text{no solution} ;; 5
\text{undefined} ;; \emptyset
0 ;; \text{no solution}
\text{none} ;; 0
(1,2),(3,5) ;; (1,2),(3,4)
(1,3),(2,4) ;; (1,2),(3,4)
AB=4, CD=9 ;; AB=9, CD=4
x=2, y=1 ;; (1,2)
y=1, x=2 ;; (1,2)
y=2x-3 ;; y=2x+3
y=2x+3 ;; y=2x+4
x+2y=3 ;; x+2y=4
s^2\ge 8r^2 ;; s^2 \le 8r^2
f(x) = 5 ;; f(y)=5x
June 21 ;; \text{June 20}
July 20 ;; \text{June 20}
5 \cdot 10 ;; 5
\frac{5}{1 ;; 5
5!! ;; 5!
5! ;; 5
n! ;; n
\overline{5} ;; 5.5
0.333\ldots ;; 0.333
3.14159\ldots ;; \pi
\text{five} ;; 6
[1,2] ;; [1,3]
(1,2) ;; (1,2,3)
2(13) ;; 15
2\frac{7}{3} ;; \frac{13}{3}
15 ;; 2(13)
1 hour and 30 minutes ;; 80\text{ minutes}
5 feet 6 inches ;; 56\text{ inches}
12\text{ pounds} ;; \$12
\text{John has } 12 \text{ apples, Mary has } 13 ;; 12
12\text{ km/h} ;; 12\text{ m/s}
12\text{ km} ;; 12\text{ km/h}
45^\circ, 130^\circ ;; 45^\circ, 135^\circ
45^\circ 30' ;; 45^\circ
\text{Bob and Carol} ;; \text{Alice and Bob}
\text{Alice} ;; \text{Alice and Bob}
\text{No, it is not} ;; \text{Yes}
\text{Not true} ;; \text{True}
BCA ;; ABC
\triangle ABD ;; \triangle ABC
\frac{7}{12} \approx 0.683 ;; 0.683
\frac{8}{12} \approx 0.583 ;; 0.583
\frac{7}{12} \approx 0.6 ;; 0.7
27 \text{ or } 28 ;; 27
(x-1)^2+(y+2)^2=8 ;; (x-1)^2+(y+2)^2=9
(x+1)^2+(y+2)^2=9 ;; (x-1)^2+(y+2)^2=9
k<5 ;; (5,\infty)
k\ge5 ;; (5,\infty)
2n+1 \text{ for } n\ge1 ;; 2n-1
\frac{\pi}{4}+2k\pi ;; \frac{\pi}{4}+k\pi
1<x<2, 3<x<5 ;; (1,2)\cup(3,4)
-2 & 4 ;; -2,3
x_1=-2,\ x_2=-3 ;; -2,3
[-2,3) ;; [-2,3]
]-2,3] ;; (-2,3)
7.5e8 ;; 7.5e7
7.4e7 ;; 7.5e7
1e15 ;; 1e+16
6.626 \times 10^{-34} ;; 6.627e-34
1.75 ;; 1.7320508
1.7 ;; \sqrt3
27.0001 ;; 27
\begin{pmatrix}4\\3\end{pmatrix} ;; \begin{pmatrix}3\\4\end{pmatrix}
(4,3) ;; \begin{pmatrix}3\\4\end{pmatrix}
\log 3 ;; \ln 3
x > 1 ;; x > 1 \text{ or } x < -1
x=-2 ;; -2,3
12:00\text{ AM} ;; 12:00 \text{ PM}
\text{False} ;; \text{True}
3\text{ or }4 ;; 3,5
5\text{ cm, } 6\text{ cm} ;; 5\text{ cm}
\boxed{6} ;; 5
\text{The answer is not } 5 ;; 5
\text{5 is not the answer} ;; 5
\text{almost } 5 ;; 5
\text{more than } 5 ;; 5
\text{fewer than 5} ;; 5
\text{between } 4 \text{ and } 5 ;; 5
5\text{ to }6 ;; 5
5-6 ;; 5
5 \pm 1 ;; 5
5+ ;; 5
5? ;; 6
-(-5) ;; -5
5^2 ;; 5
5_2 ;; 5_3
\frac{5}{0} ;; 5
\text{5 or 6} ;; 5
0\le x\le 2, x\ne 1 ;; [0,2]
[0,2]\setminus\{1\} ;; [0,2]
x\neq 1 ;; (-\infty,1)\cup(1,2)\cup(2,\infty)
x<1 \text{ and } x>3 ;; (-\infty,1)\cup(3,\infty)
5 dollars and 50 cents ;; \$6
\text{The area is not } 5 ;; 5
\text{C is wrong} ;; C
\text{not C} ;; C
\text{The answer is D} ;; C
\text{Neither C nor D} ;; C
C^2 ;; C
2C ;; C
-C ;; C
C+1 ;; C
C=12 ;; D
\sqrt{2}^2 ;; \sqrt{2}
x*x+1 ;; x^2-1
third ;; 1/3
the third ;; 1/3
quarter ;; 1/4
a third ;; 3
a ;; a third
a third of them ;; \frac13
two and a half ;; 2
8 \pmod{12} ;; 7
19 ;; 7 \pmod{12}
19 \pmod{12} ;; 7
7 \pmod{5} ;; 7 \pmod{12}
{10 \choose 3} ;; 720
{}_5C_2 ;; 20
{}_5P_2 ;; 10
5\ \Omega ;; 6
6\ k\Omega ;; 6\ \Omega
5\ \Omega ;; 5\text{ V}
(2,1)^T ;; (1,2)
(1,2)^2 ;; (1,2)
(1,2)^T ;; \begin{pmatrix}1&2\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix}^T ;; \begin{pmatrix}1&2\\3&4\end{pmatrix}
0.333334 ;; \frac13
0.333332 ;; \frac13
0.3333334 ;; \frac13
0.666665 ;; \frac23
0.666668 ;; \frac23
-0.666668 ;; -\frac23
1.414215 ;; \sqrt2
3.141594 ;; \pi
0.6666671 ;; 0.666666
0.000000 ;; 1e-10
1 and 234 ;; 1,234
1 or 234 ;; 1,234
1 \text{ and } 234 \text{ dollars} ;; \$1,234
\{1,234\} ;; 1,234
1, 5 ;; 1.5
1 and 5 ;; 1.5
(1,5) ;; 1.5
1.5 ;; 1,5
"""
