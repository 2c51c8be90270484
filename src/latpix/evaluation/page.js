for (const slider of document.querySelectorAll(".slider")) {
  const [left, right] = slider.querySelectorAll("select");
  const range = slider.querySelector("input");
  const pictures = slider.querySelectorAll("img");
  const draw = () => {
    pictures.forEach((picture, place) => {
      const below = place === right.selectedIndex, above = place === left.selectedIndex;
      picture.style.display = below || above ? "block" : "none";
      picture.style.zIndex = above ? 1 : 0;
      picture.style.clipPath = above && !below ? `inset(0 ${100 - range.value}% 0 0)` : "none";
    });
  };
  for (const control of [left, right, range]) control.addEventListener("input", draw);
  draw();
}
